"""What the published merging strategies were run on; the images are read as the tuned ones'."""

from functools import partial

import torch
import tuned_reference
from timm.models.vision_transformer import VisionTransformer

DIRECTORY = tuned_reference.DIRECTORY.with_name("merged")
arrays = partial(tuned_reference.arrays, directory=DIRECTORY)
settings_of = partial(tuned_reference.settings_of, directory=DIRECTORY)
COMMON = arrays("common")
experiences = partial(tuned_reference.experiences, common=COMMON)
seen_test_images = partial(tuned_reference.seen_test_images, common=COMMON)


def vit():
    sizes = dict(item.split("=") for item in settings_of("common")["vit"].split(", "))
    model = VisionTransformer(**{name: int(value) for name, value in sizes.items()})
    model.load_state_dict({k[4:]: v for k, v in COMMON.items() if k.startswith("vit/")})
    return model.to(torch.float64)
