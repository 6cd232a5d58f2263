"""Labels that name files by paths: relative to the file of labels, relative to the archive, or absolute."""

import pandas as pd
import pytest

from emqa_dask.pipeline.workspace.labels import read_matched_labels

URIS = ["a.tif", "day 1/a.tif", "day 1/b.tif", "day 2/c.tif"]


@pytest.fixture
def archive(tmp_path):
    """The folder of an archive, and its ledger."""
    root = tmp_path / "scans"
    paths = [str(root / uri) for uri in URIS]
    ledger = pd.DataFrame({"micrograph_id": URIS, "uri": URIS, "path": paths, "frame": 0})
    return root, ledger.assign(content_sha256=[f"{k:064x}" for k in range(4)], height_px=40, width_px=50)


def match(path, ledger, *names):
    """The micrographs that a CSV file of counts at `path` means by `names`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(["uri,n_objects\n", *(f'"{name}",{k}\n' for k, name in enumerate(names))]))
    matched = read_matched_labels([str(path)], ledger)
    return [key for key, _ in sorted(matched.items(), key=lambda item: item[1].n_objects)]


def test_paths_relative_to_the_labels_name_files(archive, tmp_path):
    root, ledger = archive
    names = ["../scans/a.tif", "../scans/day 1/a.tif", "./../scans/day 1/../day 2/c.tif"]
    assert match(tmp_path / "labels" / "n.csv", ledger, *names) == ["a.tif", "day 1/a.tif", "day 2/c.tif"]
    assert match(root / "day 1" / "n.csv", ledger, "b.tif", "../day 2/c.tif") == ["day 1/b.tif", "day 2/c.tif"]
    assert match(root / "n.csv", ledger, "./a.tif", "day 1/a.tif") == ["a.tif", "day 1/a.tif"]


def test_paths_relative_to_the_archive_name_files(archive, tmp_path):
    _, ledger = archive
    names = ["./a.tif", "day 1\\a.tif", ".\\day 1\\b.tif", "/mnt/copy/day 2/c.tif"]
    assert match(tmp_path / "n.csv", ledger, *names) == URIS
    assert match(tmp_path / "n.csv", ledger.drop(columns="path"), *names) == URIS


def test_absolute_paths_and_objects_of_a_bucket_name_files(archive, tmp_path):
    root, ledger = archive
    assert match(tmp_path / "n.csv", ledger, f"{root}/a.tif", f"{root}/day 1/a.tif") == ["a.tif", "day 1/a.tif"]
    ledger["path"] = [f"s3://bucket/scans/{uri}" for uri in URIS]
    assert match(tmp_path / "n.csv", ledger, "s3://bucket/scans/a.tif") == ["a.tif"]


def test_uri_that_is_the_path_of_another_is_refused(archive):
    root, ledger = archive
    with pytest.raises(ValueError, match=r"'a.tif' is one of 2 micrographs \(a.tif, day 1/a.tif\)"):
        match(root / "day 1" / "n.csv", ledger, "a.tif", "b.tif")
    with pytest.raises(ValueError, match=r"'a' is one of 2 micrographs"):
        match(root / "n.csv", ledger, "a")
    with pytest.raises(ValueError, match=r"'../x.tif' is not in the workspace"):
        match(root / "n.csv", ledger, "../x.tif", "a.tif")


def test_file_name_with_a_backslash_is_its_own(archive):
    root, ledger = archive
    ledger.loc[3, ["uri", "path"]] = ["day 1\\a.tif", str(root / "day 1\\a.tif")]
    assert match(root / "n.csv", ledger, "day 1\\a.tif", "day 1/a.tif") == ["day 2/c.tif", "day 1/a.tif"]
