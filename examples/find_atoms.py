"""Find the atoms in an image file with a bundled model, without Nion Swift.

``python examples/find_atoms.py image.dm3 graphene``
"""

import pathlib
import sys

from stem_ae import elit, imageio, picture

path, model = sys.argv[1:]
stack = imageio.read(path)
if stack.sampling is None:
    sys.exit(f"The sampling is {stack.sampling_source}: read it with imageio.read(path, sampling=...) in Å per pixel.")

image = stack.frames[0]
prediction = elit.load(model).predict(image, sampling=stack.sampling)
print(f"{stack.sampling[1]:.4f} Å/px {stack.sampling_source}: {prediction.atoms.counts()}")
prediction.atoms.write(f"{stack.name}_atoms.csv")
picture.save(picture.found(image, prediction.atoms, prediction.uncertainty), pathlib.Path(f"{stack.name}_atoms.png"))
