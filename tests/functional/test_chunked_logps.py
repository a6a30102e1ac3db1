"""Log-probs from hidden states: the reference, the dense computation, gradients, dtypes, extremes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from references import logps as reference
from tastemaker.functional import chunked_logps

N, D, V = 7, 4, 6
F64 = torch.float64

HEADS = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "scale": {"scale": 1.7},
    "softcap": {"softcap": 2.5},
    "all": {"softcap": 1.5, "scale": 0.8, "temperature": 1.3},
}
HEAD = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
MODES = {"kept": {"keep_bytes": 2**30}, "recomputed": {"keep_bytes": 0}}
MODE = pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())


def inputs(seed: int = 0, n: int = N, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, D, generator=g, dtype=F64).to(dtype)
    weight = torch.randn(V, D, generator=g, dtype=F64).to(dtype)
    bias = torch.randn(V, generator=g, dtype=F64).to(dtype)
    return hidden, weight, bias, torch.randint(V, (n,), generator=g)


def dense_logits(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: float = 1.0,
    softcap: float | None = None,
    temperature: float = 1.0,
) -> Tensor:
    z = torch.nn.functional.linear(hidden, weight, bias) * scale
    return (z if softcap is None else softcap * torch.tanh(z / softcap)) / temperature


@HEAD
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, None])
def test_equals_the_reference(head: dict[str, float], with_bias: bool, chunk: int | None) -> None:
    hidden, weight, bias, targets = inputs()
    offset = bias if with_bias else None
    logps, entropy = chunked_logps(hidden, weight, offset, targets, chunk=chunk, entropy=True, **head)
    assert entropy is not None
    for n in range(N):
        logits = reference.head_logits(
            hidden[n].tolist(),
            weight.tolist(),
            bias.tolist() if with_bias else None,
            head.get("scale", 1.0),
            head.get("softcap"),
            head.get("temperature", 1.0),
        )
        expected = reference.log_softmax(logits)
        assert float(logps[n]) == pytest.approx(expected[int(targets[n])], abs=1e-12)
        assert float(entropy[n]) == pytest.approx(reference.entropy(expected), abs=1e-12)


@HEAD
@MODE
@pytest.mark.parametrize("chunk", [1, 3, None])
@pytest.mark.parametrize("wanted", ["hidden", "weight", "bias", "hidden weight", "hidden weight bias"])
def test_B6_chunked_equals_dense_in_value_and_gradient(
    head: dict[str, float], mode: dict[str, int], chunk: int | None, wanted: str
) -> None:
    upstream = torch.randn(N, generator=torch.Generator().manual_seed(5), dtype=F64)
    found: dict[str, list[Tensor]] = {}
    for name in ("chunked", "dense"):
        *tensors, targets = inputs()
        leaves = dict(zip(("hidden", "weight", "bias"), tensors, strict=True))
        for leaf in wanted.split():
            leaves[leaf].requires_grad_()
        if name == "chunked":
            logps, _ = chunked_logps(*tensors, targets, chunk=chunk, **head, **mode)
        else:
            logps = dense_logits(*tensors, **head).log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
        (logps * upstream).sum().backward()
        for leaf, tensor in leaves.items():
            assert (tensor.grad is not None) == (leaf in wanted.split())
        found[name] = [logps.detach(), *(t.grad for t in tensors if t.grad is not None)]
    for chunked, dense in zip(found["chunked"], found["dense"], strict=True):
        torch.testing.assert_close(chunked, dense, rtol=0, atol=1e-12)


@MODE
@pytest.mark.parametrize("dtype, tolerance", [(F64, 1e-12), (torch.bfloat16, 0.06)])
def test_B6_a_vocabulary_of_many_cache_blocks(
    mode: dict[str, int], dtype: torch.dtype, tolerance: float
) -> None:
    """Large enough that the softmax and the sum of the weight's gradient go block by block."""
    g = torch.Generator().manual_seed(3)
    n, d, v = 60, 96, 9000
    hidden = torch.randn(n, d, generator=g, dtype=F64).to(dtype)
    weight = (torch.randn(v, d, generator=g, dtype=F64) / d**0.5).to(dtype)
    targets = torch.randint(v, (n,), generator=g)
    found, expected = [], []
    for into, wide in ((found, dtype), (expected, F64)):
        leaves = [t.to(wide, copy=True).requires_grad_() for t in (hidden, weight)]
        if into is found:
            logps, _ = chunked_logps(*leaves[:2], None, targets, chunk=45, **mode)
        else:
            logps = dense_logits(*leaves, None).log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
        into += [logps.detach(), *torch.autograd.grad(logps.sum(), leaves)]
    for chunked, dense in zip(found, expected, strict=True):
        torch.testing.assert_close(chunked.to(F64), dense, rtol=0, atol=tolerance)


@HEAD
@MODE
@pytest.mark.parametrize("frozen", [False, True])
def test_gradcheck(head: dict[str, float], mode: dict[str, int], frozen: bool) -> None:
    hidden, weight, bias, targets = inputs(n=3)
    leaves = [hidden] if frozen else [hidden, weight, bias]
    for leaf in leaves:
        leaf.requires_grad_()

    def logps(*_: Tensor) -> Tensor:
        return chunked_logps(hidden, weight, bias, targets, chunk=2, entropy=True, **head, **mode)[0]

    assert torch.autograd.gradcheck(logps, tuple(leaves))


def test_B3_shift_is_right() -> None:
    """A Markov chain as a model: the state that predicts token n is the token before it. Entry n must be
    log P(token n | token n-1), as a loop over the 5 tokens says.
    """
    table = torch.randn(V, V, generator=torch.Generator().manual_seed(2), dtype=F64)
    prompt_end, response = 3, [1, 4, 4, 0, 2]
    before = [prompt_end, *response[:-1]]
    hidden = torch.nn.functional.one_hot(torch.tensor(before), V).to(F64)
    logps, _ = chunked_logps(hidden, table.t().contiguous(), None, torch.tensor(response))
    for n, (previous, token) in enumerate(zip(before, response, strict=True)):
        expected = reference.log_softmax(table[previous].tolist())[token]
        assert float(logps[n]) == pytest.approx(expected, abs=1e-12)


def test_B5_softmax_in_float32_for_bfloat16_weights() -> None:
    g = torch.Generator().manual_seed(0)
    hidden = (3 * torch.randn(40, 16, generator=g)).bfloat16()
    weight = torch.randn(300, 16, generator=g).bfloat16()
    targets = torch.randint(300, (40,), generator=g)
    logps, entropy = chunked_logps(hidden, weight, None, targets, entropy=True)
    assert entropy is not None
    assert logps.dtype == entropy.dtype == torch.float32
    logits = hidden @ weight.t()
    exact = logits.double().log_softmax(1)
    in_bfloat16 = logits.log_softmax(1).gather(1, targets[:, None]).squeeze(1)
    expected = exact.gather(1, targets[:, None]).squeeze(1)
    assert float((logps - expected).abs().max()) < 1e-5
    assert float((in_bfloat16 - expected).abs().max()) > 1e-2  # what this guards against
    torch.testing.assert_close(entropy.double(), -(exact.exp() * exact).sum(1), rtol=0, atol=1e-5)


@MODE
@pytest.mark.parametrize("frozen", [False, True])
def test_B5_bfloat16_gradients_are_as_good_as_the_dense_ones(mode: dict[str, int], frozen: bool) -> None:
    def gradients(dtype: torch.dtype, chunked: bool) -> list[Tensor]:
        g = torch.Generator().manual_seed(1)
        hidden = (2 * torch.randn(64, 32, generator=g)).bfloat16().to(dtype).requires_grad_()
        weight = (0.5 * torch.randn(100, 32, generator=g)).bfloat16().to(dtype).requires_grad_(not frozen)
        targets = torch.randint(100, (64,), generator=g)
        if chunked:
            logps, _ = chunked_logps(hidden, weight, None, targets, chunk=16, **mode)
        else:
            wide = (hidden @ weight.t()).to(torch.promote_types(dtype, torch.float32))
            logps = wide.log_softmax(1).gather(1, targets[:, None]).squeeze(1)
        logps.sum().backward()
        leaves = [hidden] if frozen else [hidden, weight]
        assert all(leaf.grad is not None and leaf.grad.dtype == dtype for leaf in leaves)
        return [leaf.grad.double() for leaf in leaves if leaf.grad is not None]

    for exact, ours, dense in zip(
        gradients(F64, False), gradients(torch.bfloat16, True), gradients(torch.bfloat16, False), strict=True
    ):
        error, dense_error = (ours - exact).norm() / exact.norm(), (dense - exact).norm() / exact.norm()
        assert error < 0.01
        assert error < 1.2 * dense_error


def test_autocast_chooses_the_products_dtype_and_nothing_else() -> None:
    hidden, weight, bias, targets = inputs(dtype=torch.float32)
    hidden.requires_grad_()
    weight.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logps, entropy = chunked_logps(hidden, weight, bias, targets, entropy=True)
        logps.sum().backward()
    narrow, _ = chunked_logps(hidden.bfloat16(), weight.bfloat16(), bias.bfloat16(), targets)
    assert torch.equal(logps, narrow)
    assert entropy is not None
    assert logps.dtype == entropy.dtype == torch.float32
    assert hidden.grad is not None
    assert weight.grad is not None
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32
    wide, _ = chunked_logps(hidden, weight, bias, targets)
    for_hidden, for_weight = torch.autograd.grad(wide.sum(), (hidden, weight))
    assert not torch.equal(wide, logps)
    torch.testing.assert_close(hidden.grad, for_hidden, rtol=0, atol=0.05)
    torch.testing.assert_close(weight.grad, for_weight, rtol=0, atol=0.05)


def test_autocast_on_the_way_back_changes_nothing() -> None:
    """A backward pass that runs inside autocast, its forward pass having run outside."""
    tensors = inputs(dtype=torch.float32)
    leaves = tensors[:3]
    for leaf in leaves:
        leaf.requires_grad_()
    expected = torch.autograd.grad(chunked_logps(*tensors)[0].sum(), leaves)
    logps, _ = chunked_logps(*tensors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(logps.sum(), leaves)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_autocast_leaves_float64_alone() -> None:
    tensors = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within, _ = chunked_logps(*tensors)
    assert torch.equal(within, chunked_logps(*tensors)[0])
    assert within.dtype == F64


def test_mixed_dtypes_take_the_wider() -> None:
    hidden, weight, _, targets = inputs(dtype=torch.float32)
    narrow = hidden.bfloat16().requires_grad_()
    logps, _ = chunked_logps(narrow, weight, None, targets)
    expected, _ = chunked_logps(narrow.float(), weight, None, targets)
    assert torch.equal(logps, expected)
    logps.sum().backward()
    assert narrow.grad is not None
    assert narrow.grad.dtype == torch.bfloat16


@MODE
@pytest.mark.parametrize("wanted", ["hidden", "hidden weight bias"])
def test_no_rows(mode: dict[str, int], wanted: str) -> None:
    hidden, weight, bias, targets = inputs(n=0)
    for name, tensor in zip(("hidden", "weight", "bias"), (hidden, weight, bias), strict=True):
        tensor.requires_grad_(name in wanted)
    logps, entropy = chunked_logps(hidden, weight, bias, targets, entropy=True, **mode)
    assert entropy is not None
    assert logps.shape == entropy.shape == (0,)
    logps.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.shape == (0, D)
    if "weight" in wanted:
        assert weight.grad is not None
        assert torch.equal(weight.grad, torch.zeros(V, D, dtype=F64))


@MODE
@pytest.mark.parametrize("frozen", [False, True])
def test_nan_in_masked_rows_is_harmless(mode: dict[str, int], frozen: bool) -> None:
    """A row whose loss is masked has gradient 0; NaN in its hidden state must reach nothing else."""
    mask = torch.tensor([True, False, True, True, False, False, True])

    def run(spoil: bool) -> list[Tensor]:
        hidden, weight, bias, targets = inputs()
        if spoil:
            hidden[~mask] = torch.nan
        hidden.requires_grad_()
        weight.requires_grad_(not frozen)
        bias.requires_grad_(not frozen)
        logps, _ = chunked_logps(hidden, weight, bias, targets, chunk=3, **mode)
        torch.where(mask, logps, 0.0).sum().backward()
        assert hidden.grad is not None
        assert not hidden.grad[~mask].any()
        return [logps.detach()[mask], *(t.grad for t in (hidden, weight, bias) if t.grad is not None)]

    for spoilt, clean in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(spoilt, clean, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("frozen", [False, True])
def test_extreme_logits_stay_finite(dtype: torch.dtype, frozen: bool) -> None:
    hidden = torch.tensor([[1e4], [-1e4], [0.0]], dtype=dtype, requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]], dtype=dtype, requires_grad=not frozen)
    logps, entropy = chunked_logps(hidden, weight, None, torch.tensor([1, 1, 0]), entropy=True)
    assert entropy is not None
    torch.testing.assert_close(
        logps.detach(), torch.tensor([-2e4, 0.0, -torch.log(torch.tensor(3.0))], dtype=dtype)
    )
    torch.testing.assert_close(entropy, torch.tensor([0.0, 0.0, torch.log(torch.tensor(3.0))], dtype=dtype))
    logps.sum().backward()
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad, torch.tensor([[-2.0], [0.0], [1 - 0.5 / 3]], dtype=dtype))


def test_a_forbidden_token_has_no_probability_and_no_gradient() -> None:
    hidden, weight, bias, targets = inputs()
    bias[5] = -torch.inf
    targets[targets == 5] = 0
    hidden.requires_grad_()
    weight.requires_grad_()
    logps, entropy = chunked_logps(hidden, weight, bias, targets, entropy=True)
    expected, expected_entropy = chunked_logps(hidden, weight[:5], bias[:5], targets, entropy=True)
    torch.testing.assert_close(logps, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(entropy, expected_entropy, rtol=0, atol=1e-14)
    logps.sum().backward()
    assert weight.grad is not None
    assert not weight.grad[5].any()
    assert weight.grad.isfinite().all()


def test_entropy_carries_no_gradient_and_is_none_unless_asked() -> None:
    hidden, weight, bias, targets = inputs()
    hidden.requires_grad_()
    _, entropy = chunked_logps(hidden, weight, bias, targets, entropy=True)
    assert entropy is not None
    assert not entropy.requires_grad
    assert chunked_logps(hidden, weight, bias, targets)[1] is None


def test_a_second_derivative_is_refused() -> None:
    hidden, weight, _, targets = inputs()
    hidden.requires_grad_()
    weight.requires_grad_()
    logps, _ = chunked_logps(hidden, weight, None, targets)
    (first,) = torch.autograd.grad(logps.square().sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hidden": torch.zeros(N, D + 1)}, "hidden"),
        ({"targets": torch.zeros(N - 1, dtype=torch.int64)}, "targets"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Tensor], message: str) -> None:
    hidden, weight, bias, targets = inputs(dtype=torch.float32)
    arguments = {"hidden": hidden, "weight": weight, "bias": bias, "targets": targets, **change}
    with pytest.raises(ValueError, match=message):
        chunked_logps(**arguments)
