"""Make the weights of the embedded backbone: classify 400 glyphs of matplotlib's fonts.

    python studies/pretrain_embedded_backbone.py --output embedded.safetensors

It takes about ten minutes of one core. Every epoch draws 60 new renderings of each glyph in three
faces, upright at first, and rotated as far as the style says from a third of the steps on. At the
end the classifier is evaluated on four faces that it has not seen, in three ways of drawing, by
which the style was chosen. --style trains another candidate.
"""

import argparse
import time

import torch
from safetensors.torch import save_file
from torch import nn

from mist_avalanche.benchmarks import rendering
from mist_avalanche.benchmarks.glyphs import HAND_MADE
from mist_avalanche.models.backbones import tiny_vit

STYLES = {
    "upright": rendering.PRINTED,
    "turned 0.2": rendering.Style(rotation=0.2, slant=0.2, scale=(0.8, 1.1), shift=0.05),
    "turned 0.4": rendering.Style(rotation=0.4, slant=0.4, scale=(0.65, 1.1), shift=0.1),
    "turned 0.6": rendering.Style(rotation=0.6, slant=0.6, scale=(0.5, 1.1), shift=0.15),
}
UNSEEN_FACES = ("DejaVuSans-BoldOblique", "DejaVuSansMono", "DejaVuSerif-BoldItalic", "STIXGeneral")
EVALUATED_ON = {
    "print": rendering.PRINTED,
    "turned print": STYLES["turned 0.4"],
    "hand-made": HAND_MADE,
}

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--output", default="embedded.safetensors")
parser.add_argument("--style", default="turned 0.4", choices=STYLES)
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--renderings", type=int, default=60, help="of each glyph in each epoch")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

torch.manual_seed(args.seed)
generator = torch.Generator().manual_seed(args.seed)
outlines = rendering.outlines(rendering.SEEN)  # (400, faces, 64, 64)
n_glyphs, n_faces = outlines.shape[:2]


def batch(labels: torch.Tensor, progress: float) -> torch.Tensor:
    faces = torch.randint(n_faces, labels.shape, generator=generator)
    style = rendering.PRINTED.towards(STYLES[args.style], min(1.0, 3 * progress))
    return rendering.render(outlines[labels, faces], style, generator)


model = tiny_vit(num_classes=n_glyphs)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
batch_size = 128
steps = args.epochs * n_glyphs * args.renderings // batch_size
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
start = time.time()
for step in range(steps):
    labels = torch.randint(n_glyphs, (batch_size,), generator=generator)
    loss = criterion(model(batch(labels, step / steps)), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    if (step + 1) % (steps // args.epochs) == 0:
        print(f"step {step + 1}/{steps}  loss {loss:.3f}  {time.time() - start:.0f} s", flush=True)

model.eval()
drawn = [
    (torch.tensor(rendering.draw_outline(character, face)) / 255, label)
    for face in UNSEEN_FACES
    for label, character in enumerate(rendering.SEEN)
    if ord(character) in rendering.characters_of(face)
]
unseen = torch.stack([outline for outline, _ in drawn]).repeat_interleave(5, 0)
labels = torch.tensor([label for _, label in drawn]).repeat_interleave(5)
print(f"accuracy on {len(labels)} new renderings in faces that it has not seen:")
accuracies = []
with torch.no_grad():
    for name, style in EVALUATED_ON.items():
        held_out = torch.Generator().manual_seed(1000)
        images = rendering.render(unseen, style, held_out)
        predicted = torch.cat([model(part).argmax(1) for part in images.split(500)])
        accuracies.append((predicted == labels).double().mean().item())
        print(f"  {name}: {accuracies[-1]:.1%}")
print(f"  mean: {sum(accuracies) / len(accuracies):.1%}")
model.reset_classifier(0)
save_file(model.state_dict(), args.output)
