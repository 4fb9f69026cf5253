#!/usr/bin/env python3
"""Checks folders of `edkm export --to coreml-torch` with coremltools' own code: the indices that it finds give back every weight.

    pip install coremltools numpy safetensors
    edkm export small --to coreml-torch --out coreml
    python3 scripts/check-coreml.py coreml

Neither PyTorch nor a Mac is needed. Seen to pass with coremltools 9.0 for one palette a matrix (padded from 5 to 6 bits), groups with int8
palettes, vectors, and row scales.
"""

import glob
import sys

import numpy
from coremltools.optimize import _utils
from safetensors.numpy import load_file


def check(folder):
    """Rebuilds each palettized weight as Core ML's `constexpr_lut_to_dense` is defined, and returns their number."""
    tensors = {}
    for file in glob.glob(f"{folder}/*.safetensors"):
        tensors.update(load_file(file))
    tables = [name for name in tensors if name.endswith("/lut")]
    if not tables:
        sys.exit(f"{folder}: no buffers `_COREML_/<parameter>/lut`; was it written by `edkm export --to coreml-torch`?")
    for table in tables:
        module, rest = table.split("_COREML_/")
        parameter = rest.split("/")[0]

        def field(name):
            return tensors.get(f"{module}_COREML_/{parameter}/{name}")

        weight = tensors[module + parameter].astype(numpy.float32)
        lut, scale, axis = field("lut"), field("palettization_scale"), field("vector_axis")
        unscaled = weight if scale is None else weight / scale
        indices = _utils.find_indices_for_lut(unscaled, lut, None if axis is None else int(axis))
        rows_of_group = len(weight) // len(lut)
        rebuilt = [lut[r // rows_of_group, 0][indices[r].ravel()].ravel() for r in range(len(weight))]
        rebuilt = numpy.stack(rebuilt) * (1 if scale is None else scale)
        error = numpy.abs(rebuilt - weight).max() / max(numpy.abs(weight).max(), 1e-30)
        assert error < 1e-6, f"{module}{parameter}: off by {error} of its largest weight"
        steps = field("quantization_scale")
        if steps is not None:
            levels = lut / steps
            assert numpy.abs(levels - numpy.round(levels)).max() < 1e-3, f"{module}{parameter}: palette is not of whole steps"
    return len(tables)


if len(sys.argv) < 2:
    sys.exit(__doc__)
for folder in sys.argv[1:]:
    print(f"{folder}: {check(folder)} matrices as coremltools reads them")
