"""emqa estimate on whole runs and on groups: values, assumptions, and what has no estimate."""

import json
import os

import numpy as np
import pandas as pd
import pytest

from emqa_dask.measure import estimation_design
from emqa_dask.measure.estimation import define_simple_design, estimate_ratio
from emqa_dask.pipeline.commands import estimate_groups
from emqa_dask.pipeline.commands.estimate import estimate
from emqa_dask.pipeline.commands.estimate_groups import Group, estimate_group
from emqa_dask.pipeline.commands.estimate_images import TOTALS
from emqa_dask.pipeline.commands.estimate_report import format_interval
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.workspace.integrity import verify
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.settings import Settings, SettingsError, replace
from emqa_dask.store import parts

SETTINGS = {
    "run": {"scheduler": "in-process"},
    "detect": {"detectors": ["log"]},
    "measure": {"foil_thickness_nm": 1e5, "edge_correction": False},
}


@pytest.fixture(scope="module")
def triaged(small_archive, tmp_path_factory):
    """Workspace, settings and triage table of a run on a small archive."""
    root = tmp_path_factory.mktemp("estimates") / "ws"
    settings = replace(Settings(), SETTINGS)
    run(str(small_archive), str(root), settings, say=lambda text: None)
    triage = pd.read_parquet(root / "triage.parquet")
    return root, settings, triage[triage["micrograph_id"].notna()].reset_index(drop=True)


def write_counts(path, rows, counts, **columns):
    """A CSV file of labels: the counts of `rows` of the triage table."""
    table = pd.DataFrame({"uri": rows["uri"], "frame": rows["frame"], "n_objects": counts, **columns})
    table.to_csv(path, index=False)
    return str(path)


def estimate_table(triaged, labels, **options):
    """The table that estimate() writes, by sample and quantity, and the lines that it says."""
    root, settings, _ = triaged
    lines = []
    assert estimate(str(root), labels, settings, say=lines.append, **options) == 0
    table = pd.read_parquet(options.get("out") or root / "estimates.parquet")
    return table.set_index(["sample", "quantity"]), lines


def test_counts_of_some_images_equal_plain_estimate(triaged, tmp_path):
    _, _, triage = triaged
    covered = triage[triage["verdict"].isin(["trust", "review"])].reset_index(drop=True)
    reviewed = np.sort(np.random.default_rng(1).permutation(len(covered))[:9])
    counts = covered["n_detections"].to_numpy()[reviewed] * 2 + 3
    labels = write_counts(tmp_path / "counts.csv", covered.iloc[reviewed], counts)
    table, lines = estimate_table(triaged, labels, probabilities="")
    row = table.loc[("all", "n_objects")]
    expected = estimate_ratio(
        define_simple_design(len(covered), reviewed),
        np.column_stack([counts, np.ones(9)]),
        np.column_stack([covered["n_detections"], np.ones(len(covered))]),
    )
    n_images = len(covered)
    assert (row["n_images"], row["n_labels"]) == (n_images, 9)
    assert row["estimate"] == pytest.approx(n_images * expected.value)
    assert row["detections_weight"] == pytest.approx(2, rel=1e-6)
    assert row["labels_alone"] == pytest.approx(n_images * counts.mean())
    assert row["detections_alone"] == covered["n_detections"].sum()
    assert row["assumption"] == estimation_design.RANDOM_IMAGES
    quantiles = {f"{name}_q{rank}" for name in ("n_per_image", "density") for rank in (10, 50, 90)}
    assert set(table.index.get_level_values("quantity")) == {"density", "n_objects", *quantiles}
    assert "sizes and swelling are left out: they need outlines or boxes for every labelled image" in lines


def test_labels_like_the_detections_equal_their_measurements(triaged, tmp_path):
    root, settings, triage = triaged
    folders = list_run_folders(settings)
    detections = parts.read_table(str(root), folders["detections"], SCHEMAS["detections"])
    measured = parts.read_table(str(root), folders["measurements"], SCHEMAS["measurements"])
    floors = parts.read_table(str(root), folders["evidence"], SCHEMAS["evidence"])["score_floor"]
    detections = detections[detections["score"] >= floors.iloc[0]]
    images = [
        {"id": k, "file_name": row.uri, "frame": row.frame, "height": row.height_px, "width": row.width_px}
        for k, row in enumerate(triage.itertuples())
    ]
    numbers = dict(zip(triage["micrograph_id"], range(len(triage)), strict=True))
    annotations = [
        {"id": k, "image_id": numbers[row.micrograph_id], "bbox": [row.x0, row.y0, row.x1 - row.x0, row.y1 - row.y0]}
        for k, row in enumerate(detections.itertuples())
    ]
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    table, _ = estimate_table(triaged, str(labels), out=str(tmp_path / "out.parquet"))
    rows = measured[measured["label"].isna()].merge(triage[["micrograph_id", "verdict"]], on="micrograph_id")
    rows = rows[rows["verdict"].isin(["trust", "review"])]
    density = table.loc[("all", "density")]
    scaled = rows[rows["area_um2"].notna()]
    assert density["estimate"] == pytest.approx(scaled["n_objects"].sum() / scaled["area_um2"].sum())
    assert density["low"] == density["high"] == density["estimate"] == density["detections_alone"]
    assert density["assumption"] == estimation_design.ALL_IMAGES
    assert density["n_not_covered"] == len(triage) - len(scaled)
    assert table.loc[("all", "n_objects"), "n_not_covered"] == len(triage) - len(rows)
    naive = table.loc[("all", "mean_diameter"), "detections_alone"]
    is_sized = scaled["mean_diameter_nm"].notna()
    weights = scaled["n_corrected"][is_sized]
    assert naive == pytest.approx((weights * scaled["mean_diameter_nm"][is_sized]).sum() / scaled["n_corrected"].sum())


def test_mean_f1_and_trusted_share_equal_plain_estimates(triaged, tmp_path):
    root, settings, triage = triaged
    detections = parts.read_table(str(root), list_run_folders(settings)["detections"], SCHEMAS["detections"])
    detections = detections[detections["score"] >= settings.featurise.score_floor]
    covered = triage[triage["verdict"].isin(["trust", "review"])].reset_index(drop=True)
    reviewed = np.sort(np.random.default_rng(1).permutation(len(covered))[:9])
    rows = []
    true_f1 = []
    for k in reviewed:
        own = detections[detections["micrograph_id"] == covered["micrograph_id"][k]]
        n_right = max(len(own) // (1 + k % 3), 1)  # of m detections the first n are right: F1 = 2 n / (m + n)
        labelled = own.iloc[:n_right].assign(uri=covered["uri"][k], frame=covered["frame"][k])
        rows.append(labelled[["uri", "frame", "y0", "x0", "y1", "x1"]])
        true_f1.append(2 * n_right / (len(own) + n_right))
    pd.concat(rows).to_csv(tmp_path / "boxes.csv", index=False)
    table, _ = estimate_table(triaged, str(tmp_path / "boxes.csv"))
    design = define_simple_design(len(covered), reviewed)
    predicted = covered["predicted_f1"].fillna(covered["predicted_f1"].mean()).to_numpy(float)
    probability = covered["f1_probability"].fillna(covered["f1_probability"].mean()).to_numpy(float)
    is_trusted = np.array(true_f1) >= settings.triage.trust_f1
    ones = np.ones(len(covered))
    for name, true, source in (("mean_f1", true_f1, predicted), ("trusted_share", is_trusted, probability)):
        true_totals = np.column_stack([true, np.ones(9)]).astype(float)
        expected = estimate_ratio(design, true_totals, np.column_stack([source, ones]))
        row = table.loc[("all", name)]
        assert row["estimate"] == pytest.approx(expected.value)
        assert row["low"] == pytest.approx(expected.low, nan_ok=True)
        assert row["high"] == pytest.approx(min(expected.high, 1), nan_ok=True)
        assert row["detections_alone"] == pytest.approx(source.mean())


def test_junk_images_are_not_covered(triaged, tmp_path):
    _, _, triage = triaged
    is_covered = triage["verdict"].isin(["trust", "review"])
    assert (~is_covered).any()
    counts = np.where(is_covered, triage["n_detections"], 10**6)
    table, lines = estimate_table(triaged, write_counts(tmp_path / "counts.csv", triage, counts))
    assert table.loc[("all", "n_objects"), "estimate"] == counts[is_covered].sum()
    assert table.loc[("all", "n_objects"), "n_not_covered"] == (~is_covered).sum()
    assert "not covered and without influence" in lines[0]


def test_probabilities_weigh_and_have_to_be_complete(triaged, tmp_path):
    _, _, triage = triaged
    rows = triage[triage["verdict"].isin(["trust", "review"])].iloc[:4]
    counts = np.array([10, 20, 30, 40])
    chances = np.array([0.5, 0.25, 0.5, 1.0])
    labels = write_counts(tmp_path / "counts.csv", rows, counts, review_probability=chances)
    table, _ = estimate_table(triaged, labels)
    row = table.loc[("all", "n_objects")]
    assert row["estimate"] == pytest.approx((counts / chances).sum() / (1 / chances).sum() * row["n_images"])
    assert row["assumption"] == estimation_design.PROBABILITIES
    labels = write_counts(tmp_path / "counts.csv", rows, counts)
    probabilities = write_counts(tmp_path / "p.csv", rows.iloc[:3], counts[:3], review_probability=chances[:3])
    with pytest.raises(ValueError, match="labelled images without review_probability: "):
        estimate_table(triaged, labels, probabilities=probabilities)
    probabilities = write_counts(tmp_path / "p.csv", rows, counts, review_probability=chances * 2)
    with pytest.raises(ValueError, match=r"line 5: '2\.0'"):
        estimate_table(triaged, labels, probabilities=probabilities)


def test_groups_without_labels_have_no_estimate(triaged, tmp_path):
    _, _, triage = triaged
    covered = triage[triage["verdict"].isin(["trust", "review"])]
    folders = covered["uri"].str.split("/").str[0]
    name = folders.value_counts().index[0]
    rows = covered[folders == name].iloc[:3]
    table, lines = estimate_table(triaged, write_counts(tmp_path / "counts.csv", rows, [1, 2, 4]), grouping="folder")
    assert table.loc[(name, "n_objects"), "labels_alone"] > 0
    other_rows = table[table.index.get_level_values("sample") != name]
    assert len(other_rows)
    assert other_rows["estimate"].isna().all()
    assert set(other_rows["remark"]) == {"no labelled image"}
    assert any("no estimate (no labelled image)" in line for line in lines)


def test_groups_of_a_file_and_of_a_wrong_name(triaged, tmp_path):
    _, _, triage = triaged
    counts = write_counts(tmp_path / "counts.csv", triage, triage["n_detections"])
    samples = tmp_path / "samples.csv"
    samples.write_text(f"uri,sample\n{triage['uri'].iloc[0].split('/')[0]}/*,first\n")
    table, lines = estimate_table(triaged, counts, grouping=str(samples))
    assert set(table.index.get_level_values("sample")) == {"first"}
    assert any(line.endswith("images belong to no sample") for line in lines)
    with samples.open("a") as stream:
        stream.write("*/*,second\n")
    _, lines = estimate_table(triaged, counts, grouping=str(samples))
    n_overlapping = triage["uri"].str.startswith(triage["uri"].iloc[0].split("/")[0] + "/").sum()
    assert f"{samples}: {n_overlapping} images match patterns of several samples; the first pattern counts" in lines
    with pytest.raises(SettingsError, match="colour"):
        estimate_table(triaged, counts, grouping="colour")


def test_verify_puts_damaged_estimates_aside(triaged, tmp_path):
    root, _, triage = triaged
    estimate_table(triaged, write_counts(tmp_path / "counts.csv", triage, triage["n_detections"]))
    said = []
    assert verify(str(root), said.append) == 0
    content = bytearray((root / "estimates.parquet").read_bytes())
    content[200] ^= 1
    (root / "estimates.parquet").write_bytes(content)
    assert verify(str(root), said.append) == 2
    assert said[-1].endswith("`emqa estimate` makes it again")
    assert verify(str(root), said.append) == 0


def test_labels_of_other_images_are_refused(triaged, tmp_path):
    labels = tmp_path / "counts.csv"
    labels.write_text("uri,n_objects\nnowhere.tif,3\n")
    with pytest.raises(ValueError, match=r"'nowhere.tif' is not in the workspace"):
        estimate_table(triaged, str(labels))


def test_labels_name_images_by_paths_relative_to_their_file(triaged, small_archive, tmp_path):
    _, _, triage = triaged
    (tmp_path / "labels").mkdir()
    relative = [os.path.relpath(os.path.join(small_archive, uri), tmp_path / "labels") for uri in triage["uri"]]
    labels = write_counts(tmp_path / "labels" / "n.csv", triage.assign(uri=relative), triage["n_detections"] + 1)
    table, _ = estimate_table(triaged, labels)
    n_covered = triage["verdict"].isin(["trust", "review"]).sum()
    assert table.loc[("all", "n_objects"), "n_labels"] == n_covered


def test_workspace_without_measurements_names_the_step(triaged, tmp_path):
    root, settings, triage = triaged
    labels = write_counts(tmp_path / "counts.csv", triage, triage["n_detections"])
    settings = replace(settings, {"measure": {"foil_thickness_nm": 77.0}})
    with pytest.raises(
        ValueError, match=r"has no measurements of these settings: run `emqa measure .* with the same settings"
    ):
        estimate(str(root), labels, settings, say=lambda text: None)


def make_totals(n_images, seed=0, **columns):
    """(n, 10) TOTALS of images with a pixel size and a foil; without F1."""
    n_objects = np.random.default_rng(seed).poisson(20, n_images)
    values = {"n": n_objects, "diameters_px": 10.0 * n_objects, "diameters_nm": 5.0 * n_objects}
    values |= {"volume_nm3": 500.0 * n_objects, "area_mpx": 1.0, "area_um2": 2.0, "specimen_nm3": 2e8}
    values |= {"f1": np.nan, "trusted": np.nan, "has_f1": np.nan} | columns
    return np.column_stack([np.broadcast_to(values[name], n_images) for name in TOTALS]).astype(float)


def make_group(true_totals, predicted_totals, sessions=None):
    """A group whose first images are labelled."""
    sessions = np.zeros(len(predicted_totals), int) if sessions is None else sessions
    return Group(sessions, predicted_totals, np.arange(len(true_totals)), true_totals, None, 0)


def estimate_rows(group, has_sizes=True):
    return pd.DataFrame(estimate_group(group, has_sizes, 0.0)).set_index("quantity")


def test_without_pixel_size_results_are_in_px():
    totals = make_totals(40, area_um2=np.nan, diameters_nm=np.nan, volume_nm3=np.nan, specimen_nm3=np.nan)
    rows = estimate_rows(make_group(totals[:10], totals))
    assert rows.loc["density", "unit"] == "per_mpx"
    assert rows.loc["mean_diameter", ["unit", "estimate"]].tolist() == ["px", 10]
    assert "swelling" not in rows.index


def test_images_without_pixel_size_count_in_numbers_alone():
    area_um2 = np.where(np.arange(40) % 2, 2.0, np.nan)
    totals = make_totals(40, area_um2=area_um2, specimen_nm3=area_um2 * 1e8)
    rows = estimate_rows(make_group(totals[:10], totals))
    assert rows.loc["density", ["n_images", "n_labels", "n_not_covered"]].tolist() == [20, 5, 20]
    assert rows.loc["n_objects", ["n_images", "n_labels", "n_not_covered"]].tolist() == [40, 10, 0]


def test_quantiles_of_density_and_diameter_equal_plain_ones():
    area_um2 = np.random.default_rng(3).uniform(1, 3, 60)
    totals = make_totals(60, area_um2=area_um2, diameters_nm=np.arange(60) * 20.0)
    totals[::4, :4] = 0  # a quarter of the images has no object: they have a density and no diameter
    group = make_group(totals, totals)
    rows = pd.DataFrame(estimate_group(group, True, 0.0, (0.25,))).set_index("quantity")
    n_objects = totals[:, 0]
    density = np.quantile(n_objects / area_um2, 0.25, method="inverted_cdf")
    diameters = totals[n_objects > 0, 2] / n_objects[n_objects > 0]
    assert rows.loc["density_q25", ["unit", "estimate", "low", "high"]].tolist() == ["per_um2", *3 * [density]]
    diameter = np.quantile(diameters, 0.25, method="inverted_cdf")
    assert rows.loc["mean_diameter_q25", ["unit", "estimate", "detections_alone"]].tolist() == ["nm", *2 * [diameter]]
    assert rows.loc["n_per_image_q25", "estimate"] == np.quantile(n_objects, 0.25, method="inverted_cdf")


def test_zero_objects_have_no_interval_and_say_so():
    totals = make_totals(40, n=0, diameters_px=0, diameters_nm=0, volume_nm3=0)
    rows = estimate_rows(make_group(totals[:10], totals))
    assert rows.loc["density", "estimate"] == 0
    assert np.isnan(rows.loc["mean_diameter", "estimate"])
    without_objects = ["density", "mean_diameter", "n_objects", "mean_diameter_q50"]
    assert set(rows.loc[without_objects, "remark"]) == {estimate_groups.NO_OBJECTS}


def test_swelling_beyond_the_foil_has_no_upper_end():
    totals = make_totals(40, specimen_nm3=11_000)
    true_totals = make_totals(10, seed=1, specimen_nm3=11_000)
    row = estimate_rows(make_group(true_totals, totals)).loc["swelling"]
    assert row["estimate"] > row["low"] > 0
    assert np.isnan(row["high"])
    assert row["remark"] == estimate_groups.NO_FOIL
    totals[:, 6] = true_totals[:, 6] = 5000
    row = estimate_rows(make_group(true_totals, totals)).loc["swelling"]
    assert np.isnan(row["estimate"])
    assert row["remark"] == estimate_groups.NO_FOIL


def test_labels_that_do_not_vary_have_no_interval():
    totals = make_totals(40, n=7.0)
    row = estimate_rows(make_group(totals[:10], totals)).loc["density"]
    assert row["estimate"] == 3.5
    assert np.isnan(row["low"])
    assert row["remark"] == estimate_groups.NO_VARIATION


def test_labels_of_one_session_say_nothing_about_others():
    totals = make_totals(40)
    rows = estimate_rows(make_group(totals[:12], totals, sessions=np.repeat([0, 1], 20)))
    assert rows["estimate"].isna().all()
    assert rows["remark"].str.startswith("labels of 1 of 2 sessions").all()
    assert rows.loc["n_objects", "detections_alone"] == totals[:, 0].sum()


@pytest.mark.parametrize("n_labels", [0, 1])
def test_group_of_one_image(n_labels):
    totals = make_totals(1)
    rows = estimate_rows(make_group(totals[:n_labels], totals))
    assert rows.loc["n_objects", "estimate"] == pytest.approx(totals[0, 0] if n_labels else np.nan, nan_ok=True)
    assert rows.loc["swelling", "detections_alone"] == pytest.approx(100 * totals[0, 3] / (totals[0, 6] - totals[0, 3]))


def test_group_without_covered_images_has_rows():
    rows = estimate_rows(make_group(np.empty((0, 10)), np.empty((0, 10))))
    assert rows["estimate"].isna().all()
    assert rows["n_images"].eq(0).all()


def test_intervals_are_written_with_two_digits_of_half_width():
    assert format_interval(3.1416, 2.95, 3.37) == "3.14 +- 0.21 (2.95 to 3.37)"
    assert format_interval(31416, 29_500, 33_700) == "31,416 +- 2,100 (29,500 to 33,700)"
    assert format_interval(5, 3, np.nan) == "5.00 (3.00 to ?)"
    assert format_interval(2.0, 2.0, 2.0) == "exactly 2.00"
