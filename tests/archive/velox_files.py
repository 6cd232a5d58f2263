"""Velox EMD files as Velox writes them: images (y, x, frame) with JSON metadata per frame, displays and streams."""

import json
from pathlib import Path

import h5py
import numpy as np

METADATA_BYTES = 60_000  # that Velox reserves per frame
DETECTORS = {
    "Detector-0": {"DetectorName": "BM-Ceta", "DetectorType": "ImagingDetector", "ExposureTime": "0.8"},
    "Detector-1": {"DetectorName": "HAADF", "DetectorType": "ScanningDetector"},
    "Detector-2": {"DetectorName": "SuperXG21", "DetectorType": "AnalyticalDetector"},
}


def make_metadata(detector: str = "HAADF", index: int | None = 1, nm: float = 0.5, unit: str = "m", **entries) -> dict:
    """Metadata of one frame as Velox writes them: numbers are texts."""
    result = {
        "Detector": detector,
        "PixelSize": {"width": str(nm * 1e-9), "height": str(nm * 1e-9)},
        "PixelUnitX": unit,
        "PixelUnitY": unit,
    }
    if index is not None:
        result["DetectorIndex"] = str(index)
    return {
        "Instrument": {"InstrumentModel": "Themis", "InstrumentClass": "Titan"},
        "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1575540224"}},
        "Optics": {"AccelerationVoltage": "300000", "LastMeasuredScreenCurrent": "1.602176634e-10"},
        "Stage": {"Position": {"x": "1.25e-05", "y": "-2e-06", "z": "3e-06"}, "AlphaTilt": "0.1745329252"},
        "Scan": {"DwellTime": "1e-06", "FrameTime": "4.5"},
        "Detectors": DETECTORS,
        "BinaryResult": result,
        "CustomProperties": {"StemMagnification": {"type": "double", "value": "225000"}},
    } | entries


def write_velox(
    path: Path, images: dict[str, tuple], *, version: int = 11, labels: dict[str, str] | None = None
) -> None:
    """images: {name: (array (y, x, n), metadata)}; labels: {name: title of its display}."""

    def put_text(file: h5py.File, name: str, tree: dict) -> None:
        file.create_dataset(name, (1,), h5py.string_dtype())[0] = json.dumps(tree)

    with h5py.File(path, "w") as file:
        put_text(file, "Version", {"version": str(version), "format": "Velox"})
        put_text(file, "Info", {"applicationVersion": "3.10"})
        for name, (data, metadata) in images.items():
            group = file.create_group(f"Data/Image/{name}")
            group.create_dataset("Data", data=data, chunks=(*data.shape[:2], 1))
            text = np.zeros((METADATA_BYTES, data.shape[2]), np.uint8)
            encoded = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
            text[: encoded.size] = encoded[:, None]
            group["Metadata"] = text
        for number, (name, label) in enumerate((labels or {}).items()):
            data_path = f"/Data/Image/{name}"
            if version >= 11:
                reference = f"/SharedProperties/ImageSeriesDataReference/{number}"
                put_text(file, reference, {"dataPath": data_path})
                put_text(file, f"Displays/ImageDisplay/{number}", {"data": reference, "id": label})
            else:
                display = {"dataPath": data_path, "display": {"label": label}}
                put_text(file, f"Presentation/Displays/ImageDisplay/{number}", display)
