"""The loss of a causal language model, with logits only where a token is supervised.

A vocabulary of 128,256 times 8,192 tokens is 4.2 GB of logits in fp32, most of them for prompt
tokens that have no loss. Here the hidden states of the supervised positions alone meet the head,
in chunks, and a chunk's gradient is taken while its logits are at hand (as Liger Kernel's fused
linear cross entropy does, https://arxiv.org/abs/2410.10989): nothing of size vocabulary × tokens
is ever kept, and nothing is computed twice.

Shapes: T tokens, S supervised positions, C hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from packtrain.errors import ConfigError
from packtrain.model.attention import attention_arguments, plain_attention, use_document_attention
from packtrain.model.fused import use_fused_layers
from packtrain.model.linears import drops, times
from packtrain.model.prefix import share_prefix

if TYPE_CHECKING:
    from packtrain.data.batches import MicroBatch

CHUNK = 512


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of cross entropies; see :func:`chunked_cross_entropy`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        softcap: float | None,
        chunk: int,
        weights: Tensor | None,
    ) -> Tensor:
        want_hidden, want_weight, want_bias = ctx.needs_input_grad[:3]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if want_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if want_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if want_bias and bias is not None else None
        for start in range(0, len(targets), chunk):
            part, wanted = hidden[start : start + chunk], targets[start : start + chunk, None]
            logits = times(part, weight, bias).float()
            if scale != 1.0:
                logits *= scale
            bend = None
            if softcap is not None:
                bend = torch.tanh(logits / softcap)
                logits = bend * softcap
            normalizer = torch.logsumexp(logits, dim=1, keepdim=True)
            losses = normalizer - logits.gather(1, wanted)
            counting = None if weights is None else weights[start : start + chunk, None]
            total += (losses if counting is None else losses * counting).sum()
            if grad_hidden is None and grad_weight is None and grad_bias is None:
                continue
            # d loss / d logits = softmax - one-hot, made in place.
            grad = logits.sub_(normalizer).exp_()
            grad.scatter_add_(1, wanted, grad.new_full((1, 1), -1.0).expand(len(wanted), 1))
            if counting is not None:
                grad *= counting
            if bend is not None:
                grad *= 1.0 - bend * bend
            if scale != 1.0:
                grad *= scale
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[start : start + chunk] = times(grad, weight.t())
            if grad_weight is not None:
                grad_weight += grad.T @ part
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if grad_hidden is None else grad_hidden * grad.to(grad_hidden.dtype),
            None if grad_weight is None else (grad_weight * grad).to(weight_dtype),
            None if grad_bias is None else (grad_bias * grad).to(bias_dtype),
            None,
            None,
            None,
            None,
            None,
        )


def chunked_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    chunk: int = CHUNK,
    weights: Tensor | None = None,
) -> Tensor:
    """Sum over S of the cross entropy of ``softcap·tanh(scale·(hidden @ weight.T + bias)/softcap)``.

    ``hidden`` [S, C], ``weight`` [V, C], ``bias`` [V] or None, ``targets`` [S]. Result: a scalar in
    fp32 (nats). At most ``chunk`` × V logits exist at a time. Without a ``softcap`` the logits are
    just scaled. ``weights`` [S] in fp32: what each cross entropy counts in the sum; None: 1.
    """
    loss: Tensor = _ChunkedCrossEntropy.apply(hidden, weight, bias, targets, scale, softcap, chunk, weights)
    return loss


class CausalLoss(nn.Module):
    """Loss of a model over packed documents: its backbone, its head and what it does to logits.

    A module of its own, around both, so that what shards or wraps a model sees one forward.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Linear,
        *,
        scale: float = 1.0,
        softcap: float | None = None,
        chunk: int = CHUNK,
    ) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.scale, self.softcap, self.chunk = scale, softcap, chunk
        self.compute: torch.dtype | None = None
        """What weights in fp32 are computed in (autocast); None: in their own type."""
        self.training = backbone.training

    @classmethod
    def of(cls, model: PreTrainedModel) -> CausalLoss:
        """Take ``model`` apart; its attention keeps documents apart from now on, and its layers are fused."""
        head = model.get_output_embeddings()
        if not isinstance(head, nn.Linear) or model.base_model is model:
            raise ConfigError(f"{type(model).__name__} has no linear head on a decoder, which training needs")
        use_document_attention(model)
        use_fused_layers(model)
        config = model.config.get_text_config()
        scale = getattr(config, "logit_scale", None) or 1.0
        divisor = getattr(config, "logits_scaling", None) or 1.0
        softcap = getattr(config, "final_logit_softcapping", None)
        return cls(model.base_model, head, scale=scale / divisor, softcap=softcap)

    def hidden(self, batch: MicroBatch) -> Tensor:
        """Hidden states [S, C] of the positions that predict a supervised token."""
        batch, shared = (batch, 0) if self._apart(batch) else share_prefix(batch)
        output = self.backbone(
            input_ids=batch.input_ids[None],
            position_ids=batch.position_ids[None],
            use_cache=False,
            **attention_arguments(batch.cu_seqlens, batch.longest, shared),
        )
        states: Tensor = output.last_hidden_state[0]
        return states.index_select(0, batch.target_positions)

    def _apart(self, batch: MicroBatch) -> bool:
        """Whether each document is computed whole: on a GPU, whose tokens the host would have to wait
        for; with dropout, which drops something else of each document's beginning; and without content."""
        on_host = type(batch.input_ids) is Tensor and batch.input_ids.device.type == "cpu"
        return not on_host or any(map(drops, self.backbone.modules()))

    def forward(self, batch: MicroBatch) -> Tensor:
        """Sum of the cross entropies (nats) of the batch's supervised tokens, each as often as its row
        counts, a scalar in fp32."""
        weight: Tensor = self.head.weight
        bias: Tensor | None = self.head.bias
        with torch.autocast(weight.device.type, self.compute, enabled=self.compute is not None):
            hidden = self.hidden(batch)
        # A head that is trained is in fp32, whatever the hidden states are in.
        compute = self.compute or hidden.dtype
        hidden, weight = hidden.to(compute), weight.to(compute)
        bias = None if bias is None else bias.to(compute)
        return chunked_cross_entropy(
            hidden,
            weight,
            bias,
            batch.targets,
            scale=self.scale,
            softcap=self.softcap,
            chunk=self.chunk,
            weights=batch.weights,
        )


@torch.no_grad()
def check_against_model(loss: CausalLoss, model: PreTrainedModel, batch: MicroBatch) -> None:
    """A gate: our loss of packed documents equals the model's own, document by document.

    It finds what no list of architectures can: a head with a transform that we do not know, or an
    attention that lets documents see each other. ``batch`` should hold two documents or more.
    """
    ours = float(loss(batch))
    # In one pass, which reads all weights: causal, so that what is behind a document does not matter to it.
    bounds = batch.cu_seqlens.long()
    documents = batch.input_ids.split(bounds.diff().tolist())
    which = torch.bucketize(batch.target_positions, bounds[1:], right=True)
    with plain_attention(model):
        logits = model(
            input_ids=nn.utils.rnn.pad_sequence(documents, batch_first=True), use_cache=False
        ).logits
    picked = logits[which, batch.target_positions - bounds[which]].float()
    theirs = float(F.cross_entropy(picked, batch.targets, reduction="sum"))
    tolerance = 1e-3 if loss.head.weight.dtype == torch.float32 else 5e-2
    if not abs(ours - theirs) <= tolerance * max(1.0, abs(theirs)):
        raise ConfigError(
            f"{type(model).__name__} is not supported: on the same rows its own loss is {theirs:.4f}, "
            f"and packed it is {ours:.4f}",
            hint="please report the architecture; training on it would give wrong results",
        )
