"""What a folder of ``copypaste predict`` holds, complete or not; and what is known of other unfinished folders."""

from dataclasses import replace
from pathlib import Path

from composer_copypaste.files import read_json
from composer_copypaste.output_folder import WORKING_FOLDER, Source, began_source
from composer_copypaste.runs.info.data_sets import describe_results
from composer_copypaste.runs.info.description import Description, Value, source_facts
from composer_copypaste.runs.predict.files import ANNOTATIONS, DRAWN, IMAGES, RESULTS
from composer_copypaste.runs.predict.manifest import MANIFEST, RECORDS, read_manifest
from composer_copypaste.runs.predict.records import RecordFile

_KINDS = {"weights": "predictions", "shard size": "shards", "per_image": "an offline data set"}
"""What an unfinished folder holds, by a key that only the source of such folders has."""


def is_predictions(path: Path) -> bool:
    """Whether a folder has complete predictions."""
    return (path / MANIFEST).is_file() and (path / RESULTS).is_file()


def describe_predictions(path: Path) -> Description:
    """What complete predictions are, and what they were made with."""
    manifest = read_manifest(path)
    names = {id_: name for _, id_, name in manifest["source"]["categories"]}
    described = describe_results(read_json(path / RESULTS, "file of results"), path / RESULTS, names)
    facts: dict[str, Value] = {"images": manifest["images"]} | described.facts | source_facts(manifest["source"])
    facts["files"] = ", ".join(name for name in (RESULTS, IMAGES, ANNOTATIONS, DRAWN) if (path / name).exists())
    return replace(described, path=path, kind="predictions", facts=facts)


def describe_unfinished(path: Path) -> Description:
    """What an unfinished folder is being filled with: predictions, an offline data set or shards."""
    source = began_source(path) or {}
    kind = next((kind for key, kind in _KINDS.items() if key in source), "an output folder")
    facts = source_facts(source)
    problems: list[str] = []
    if kind == "predictions":
        records = RecordFile(path / WORKING_FOLDER / RECORDS).last_records()
        unreadable = [f"{record.file_name}: {record.problem}" for record in records.values() if record.problem]
        objects = sum(len(record.results) for record in records.values())
        facts = {"images": len(_images(source)), "images done": len(records), "results": objects} | facts
        problems = [f"could not be read: {each}" for each in unreadable]
    warning = "not complete: the command that began it goes on"
    return Description(path, f"{kind}, not complete", facts, problems=problems, warnings=[warning])


def _images(source: Source) -> list[object]:
    images = source.get("images")
    return images if isinstance(images, list) else []
