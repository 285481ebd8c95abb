"""A model of a given size that has no sense: for time and memory."""
import shutil

from context import Unmeasurable

BYTES = 2 << 30


def random_llama(context):
    """A random Llama of at least BYTES, made once; its folder, and the bytes of its weights."""
    model = context.work / "random-llama"
    if not model.exists():
        partial = context.work / "random-llama.partial"
        shutil.rmtree(partial, ignore_errors=True)
        make = [context.program("tests/support/make_random_model"), "--out", partial, "--bytes", BYTES]
        context.run(make, quiet=True)
        partial.replace(model)
    size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    if size < BYTES:
        raise Unmeasurable(f"{model} has only {size} bytes of weights")
    return model, size
