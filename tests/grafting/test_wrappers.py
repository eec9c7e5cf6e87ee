"""What stands around a model, or in it: each kind works, or is refused with a reason."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist

import skillpack
from skillpack.errors import UnsupportedModelError
from skillpack.grafting.places import find_places
from tests.grafting.tools import bits, load, same

IDS = torch.tensor([[1, 17, 200, 31, 99, 6]])


def logits(model):
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


def grafted_and_back(model, inner, shelf):
    """Graft, compare with the installed folder, take off, compare with the base."""
    before = bits(inner)
    host = skillpack.host(model, store=shelf.store)
    assert host.model is model
    host.graft("math")
    assert same(bits(inner), bits(load(shelf.installed("math"))))
    yield
    host.ungraft()
    assert same(bits(inner), before)
    yield


def test_a_compiled_model_is_not_compiled_again(shelf):
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    plain = load(shelf.base)
    model = torch.compile(plain, backend=counter)
    base = logits(model)
    compiled = counter.frame_count
    assert compiled
    steps = grafted_and_back(model, plain, shelf)
    next(steps)
    expected = logits(load(shelf.installed("math")))
    assert torch.equal(logits(model), expected)
    assert not torch.equal(expected, base)
    next(steps)
    assert torch.equal(logits(model), base)
    assert counter.frame_count == compiled
    torch._dynamo.reset()


@pytest.fixture
def process_group(tmp_path):
    """A group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_data_parallel(shelf, process_group):
    plain = load(shelf.base)
    model = torch.nn.parallel.DistributedDataParallel(plain)
    steps = grafted_and_back(model, plain, shelf)
    next(steps)
    assert torch.equal(logits(model), logits(load(shelf.installed("math"))))
    next(steps)


def test_fully_sharded_models_are_refused(shelf, process_group):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    mesh = init_device_mesh("cpu", (1,))
    model = fully_shard(load(shelf.base).float(), mesh=mesh)
    with pytest.raises(UnsupportedModelError, match=r"split over processes by FSDP .* none has what"):
        skillpack.host(model)
    # Its constructor wants a GPU.
    wrapped = FullyShardedDataParallel.__new__(FullyShardedDataParallel)
    torch.nn.Module.__init__(wrapped)
    wrapped._fsdp_wrapped_module = load(shelf.base)
    with pytest.raises(UnsupportedModelError, match="split over processes by FSDP"):
        skillpack.host(wrapped)


def offloaded(model, folder, where):
    from accelerate import dispatch_model

    kinds = {"model.embed_tokens": "cpu", "lm_head": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu"}
    layers = {f"model.layers.{layer}": where for layer in range(2)}
    return dispatch_model(model, {**kinds, **layers}, main_device="cpu", offload_dir=folder, force_hooks=True)


def test_weights_that_accelerate_keeps_on_the_cpu(shelf, tmp_path):
    from accelerate import cpu_offload

    model = cpu_offload(load(shelf.base), execution_device=torch.device("cpu"))
    assert model.model.norm.weight.is_meta
    base = logits(model)
    host = skillpack.host(model, store=shelf.store)
    host.graft("math", "code=0.5")
    assert torch.equal(logits(model), logits(load(shelf.installed("math", "code=0.5"))))
    host.verify()
    host.ungraft()
    assert torch.equal(logits(model), base)
    assert model.model.norm.weight.is_meta


def test_weights_that_accelerate_keeps_on_disk_are_refused(shelf, tmp_path):
    model = offloaded(load(shelf.base), tmp_path, "disk")
    assert torch.isfinite(logits(model)).all()
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.0\..* is offloaded to disk"):
        skillpack.host(model)


def test_a_model_without_values_is_refused(shelf):
    with pytest.raises(UnsupportedModelError, match="on the meta device, so it has no values"):
        skillpack.host(load(shelf.base).to("meta"))
    with pytest.raises(UnsupportedModelError, match="no values yet"):
        skillpack.host(torch.nn.Sequential(torch.nn.LazyLinear(4)))
    with pytest.raises(UnsupportedModelError, match="has no weights"):
        skillpack.host(torch.nn.Identity())


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_adapters_of_peft_are_to_be_taken_off_first(shelf):
    import peft

    plain = load(shelf.base)
    before = bits(plain)
    model = peft.get_peft_model(plain, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    for refused in (model, plain):
        with pytest.raises(UnsupportedModelError, match="adapters of PEFT") as error:
            skillpack.host(refused, store=shelf.store)
        assert "unload()" in error.value.hint
    steps = grafted_and_back(model.unload(), plain, shelf)
    next(steps)
    next(steps)
    assert same(bits(plain), before)


class Params4bit(torch.nn.Parameter):
    """Looks like the parameters of bitsandbytes."""


def with_weight(weight):
    module = torch.nn.Linear(4, 4, bias=False)
    module.weight = weight
    return module


def test_quantised_weights_are_refused(shelf):
    packed = Params4bit(torch.zeros(8, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(UnsupportedModelError, match=r"quantised or packed \(weight is a \w+ Params4bit\)"):
        skillpack.host(with_weight(packed))
    eight = torch.nn.Parameter(torch.zeros(4, 4).to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(UnsupportedModelError, match=r"weight is torch\.float8_e4m3fn"):
        skillpack.host(with_weight(eight))
    model = load(shelf.base)
    model.is_quantized, model.quantization_method = True, "gptq"
    with pytest.raises(UnsupportedModelError, match=r"quantised or packed \(by gptq\)"):
        skillpack.host(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_model_that_torch_has_quantised(shelf):
    model = torch.ao.quantization.quantize_dynamic(load(shelf.base).float(), {torch.nn.Linear}, dtype=torch.qint8)
    with pytest.raises(UnsupportedModelError, match=r"of torch\.ao"):
        skillpack.host(model)


def test_sparse_and_complex_weights_are_refused():
    for weight in (torch.eye(4).to_sparse(), torch.eye(4) * 1j):
        with pytest.raises(UnsupportedModelError, match="quantised or packed"):
            skillpack.host(with_weight(torch.nn.Parameter(weight)))


def test_wrappers_are_looked_through(shelf):
    plain = load(shelf.base)
    model = torch.compile(torch.nn.DataParallel(plain), backend="eager")
    assert dict(find_places(model)).keys() == dict(find_places(plain)).keys()
    assert find_places(model)["model.norm.weight"].tensor is plain.model.norm.weight


def test_modules_that_are_shared_have_one_place():
    shared = torch.nn.Linear(3, 3)
    places = find_places(torch.nn.ModuleDict({"a": shared, "b": torch.nn.Sequential(shared)}))
    assert set(places) == {"a.weight", "a.bias", "b.0.weight", "b.0.bias"}
    assert places["a.weight"].extent == places["b.0.weight"].extent != places["a.bias"].extent
    assert places["a.weight"].owners == ((shared, "weight"),)
    assert places["a.weight"].tensor is copy.copy(shared).weight
