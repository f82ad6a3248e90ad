"""The models: their shapes and how long each is trained. One seed a model."""

from dataclasses import dataclass

from transformers import HubertConfig, HubertForCTC, HubertModel, Wav2Vec2Config, Wav2Vec2ForCTC, Wav2Vec2ForPreTraining

ALPHABET = "abcdefghijklmnopqrstuvwxyz'"
VOCABULARY = {"<pad>": 0, "|": 1} | {c: i + 2 for i, c in enumerate(ALPHABET)}
UNITS = 100  # clusters that HuBERT predicts
NEGATIVES = 50


@dataclass(frozen=True)
class Recipe:
    """How one checkpoint is trained: steps of `batch` crops (or utterances, for CTC)."""

    name: str
    family: str
    size: str
    seed: int
    steps: int
    rate: float  # peak learning rate
    start: str = ""  # the model whose weights it starts from
    units: str = ""  # HuBERT: the labels it predicts
    batch: int = 4
    warmup: int = 150  # steps
    easing: int = 1200  # wav2vec 2.0: steps until its objective is the published one
    fall: float = 0.4  # share of the steps over which the learning rate falls to zero
    kept: tuple[int, ...] = ()  # steps on the way whose weights are kept

    @property
    def ctc(self) -> bool:
        """Whether this is a finetuning."""
        return bool(self.start)


_COMMON = {
    "conv_dim": [32, 48, 64, 96, 128, 128, 128],
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "num_conv_pos_embeddings": 32,
    "num_conv_pos_embedding_groups": 4,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,
    "mask_time_prob": 0.65,
    "mask_time_length": 10,
    "vocab_size": len(VOCABULARY),
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "ctc_loss_reduction": "mean",
    "ctc_zero_infinity": True,
}
_SIZES = {
    "small": {
        "hidden_size": 128,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "do_stable_layer_norm": False,
        "feat_extract_norm": "group",
        "conv_bias": False,
    },
    "large": {
        "hidden_size": 160,
        "num_hidden_layers": 6,
        "num_attention_heads": 5,
        "intermediate_size": 400,
        "do_stable_layer_norm": True,
        "feat_extract_norm": "layer",
        "conv_bias": True,
    },
}
_QUANTIZER = {
    "num_codevectors_per_group": 64,
    "num_codevector_groups": 2,
    "codevector_dim": 128,
    "proj_codevector_dim": 128,
    "num_negatives": NEGATIVES,
    "contrastive_logits_temperature": 0.1,
    "feat_quantizer_dropout": 0.0,
}
# At the published 0.1 the large model's codebook stayed below a perplexity of 20 of 128 for 500 steps.
_DIVERSITY = {"small": 0.1, "large": 0.3}


def build(family: str, size: str, ctc: bool = False):  # noqa: ANN201
    """Return a fresh model; its weights depend on torch's seed."""
    if family == "hubert":
        config = HubertConfig(**_COMMON, **_SIZES[size])
        return (HubertForCTC if ctc else HubertModel)(config)
    config = Wav2Vec2Config(**_COMMON, **_SIZES[size], **_QUANTIZER, diversity_loss_weight=_DIVERSITY[size])
    return (Wav2Vec2ForCTC if ctc else Wav2Vec2ForPreTraining)(config)


def encoder_of(model):  # noqa: ANN001, ANN201
    """Return the bare encoder inside any of the model classes."""
    return getattr(model, "wav2vec2", None) or getattr(model, "hubert", None) or model
