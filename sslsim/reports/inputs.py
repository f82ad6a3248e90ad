"""What a run compares: a study, from its file and from what the command line or a sweep says of single fields.

Imported for ``sslsim --help``: nothing here loads numpy until a study is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslsim.errors import SslsimError
from sslsim.reports.parameters import Parameter, coerce

if TYPE_CHECKING:
    from sslsim.activations import Study

EMBEDDED = "embedded"
FIELDS = {
    field.name: field
    for field in (
        Parameter(
            "lineup", "str", "the embedded one",
            "TOML file with [[checkpoint]] tables: name, source (folder or hub id), and if you like revision, family, "
            "size, finetuned_from, seed_of, untrained_seed; or paper, the public checkpoints of the paper",
        ),
        Parameter(
            "corpus", "str", "the embedded one",
            "folder of audio, a manifest .csv, .tsv or .jsonl with id, path, speaker, text, or a saved dataset",
        ),
        Parameter("checkpoints", "list[str]", [], "names of the lineup, untrained:NAME[:SEED], log-mel"),
        Parameter("max_utterances", "int | None", None, "take at most N utterances, at random"),
        Parameter("max_seconds", "float | None", None, "take at most so many seconds of audio, at random"),
        Parameter("per_speaker", "int | None", None, "take at most N utterances of each speaker, at random"),
        Parameter("seed", "int", 0, "of the choice of utterances"),
        Parameter("frames_per_utterance", "int | None", None, "keep N frames of an utterance, evenly spaced"),
        Parameter("queries", "int | None", 16, "keep N rows of an attention map, evenly spaced; 0 keeps none"),
        Parameter("piece_seconds", "float", 30.0, "cut longer utterances into equal pieces of at most so many seconds"),
        Parameter("longest_seconds", "float", 3600.0, "leave out longer utterances"),
        Parameter("dtype", "str", "float32", "of the encoders: float32, or bfloat16 or float16 on a GPU"),
        Parameter("strict", "bool", False, "stop if an utterance cannot be used; else it is left out and named"),
    )
}  # fmt: skip
"""The fields of a study that can be given one by one, with the study's own defaults."""


def study_of(file: str | Path = EMBEDDED, given: Mapping[str, Any] | None = None) -> Study:
    """Return the study of a file, or ``embedded``, with other values in some of its fields.

    `given` are values by the names of `FIELDS`, as text or typed, paths counted from the working directory.

    Raises
    ------
    SslsimError
        The file is no study, a value does not have its type, or there is no such lineup or corpus.
    """
    from sslsim.activations import Study
    from sslsim.encoders.lineup import find_lineup

    values = {name: coerce(FIELDS[name], value) for name, value in (given or {}).items()}
    for name in {"lineup", "corpus"} & set(values):
        path = find_lineup(values[name]) if name == "lineup" else Path(values[name])
        values[name] = path.resolve()
        if not path.exists():
            raise SslsimError(f"{name} not found: {values[name]}; give an existing one with --{name}")
    if "checkpoints" in values:
        values["checkpoints"] = tuple(values["checkpoints"])
    study = Study.read(file)
    for part in ("subset", "segmentation"):
        of_part = {each.name for each in fields(getattr(study, part))} & set(values)
        values[part] = replace(getattr(study, part), **{name: values.pop(name) for name in of_part})
    return replace(study, **values)


def described(study: Study) -> dict[str, Any]:
    """Return what a study says, by the names of `FIELDS`, as JSON can hold it."""
    parts = (study, study.subset, study.segmentation)
    found = {name: next(getattr(part, name) for part in parts if hasattr(part, name)) for name in FIELDS}
    texts = {name: str(found[name]) for name in ("lineup", "corpus")}
    return found | texts | {"checkpoints": list(study.checkpoints)}
