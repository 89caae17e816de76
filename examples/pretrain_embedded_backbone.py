"""Make the weights of the embedded backbone: classify 400 glyphs of matplotlib's fonts.

    python examples/pretrain_embedded_backbone.py --output embedded.safetensors

About five minutes on two cores. Every epoch draws 60 new renderings of each glyph.
"""

import argparse
import time

import torch
from safetensors.torch import save_file
from torch import nn

from mist_avalanche.benchmarks import rendering as rendering
from mist_avalanche.models.backbones import tiny_vit

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--output", default="embedded.safetensors")
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--renderings", type=int, default=60, help="of each glyph in each epoch")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

torch.manual_seed(args.seed)
generator = torch.Generator().manual_seed(args.seed)
outlines = rendering.outlines(rendering.pretraining_glyphs())  # (400, faces, 64, 64)
n_glyphs, n_faces = outlines.shape[:2]


def batch(labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    faces = torch.randint(n_faces, labels.shape, generator=generator)
    return rendering.render(outlines[labels, faces], rendering.PRINTED, generator)


model = tiny_vit(num_classes=n_glyphs)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
batch_size = 128
steps = args.epochs * n_glyphs * args.renderings // batch_size
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
start = time.time()
for step in range(steps):
    labels = torch.randint(n_glyphs, (batch_size,), generator=generator)
    loss = criterion(model(batch(labels, generator)), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    if (step + 1) % (steps // args.epochs) == 0:
        print(f"step {step + 1}/{steps}  loss {loss:.3f}  {time.time() - start:.0f} s", flush=True)

model.eval()
with torch.no_grad():
    held_out = torch.Generator().manual_seed(args.seed + 1)
    labels = torch.arange(n_glyphs).repeat_interleave(10)
    correct = sum(
        (model(batch(part, held_out)).argmax(1) == part).sum().item() for part in labels.split(500)
    )
print(f"accuracy on new renderings: {correct / len(labels):.1%}")
model.reset_classifier(0)
save_file(model.state_dict(), args.output)
