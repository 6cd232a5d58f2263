"""Tables about the files of an archive and the micrographs in them."""

import pyarrow as pa

from emqa_dask.tables.schema import ID, Columns, define_schema

STATUSES = ("ok", "failed", "skipped", "removed")  # of a row of the catalog and of triage

_IMAGING_CONDITIONS: Columns = {
    "nm_per_pixel": (pa.float64(), "Pixel size along x (columns) in nm. NaN when it is unknown."),
    "nm_per_pixel_y": (pa.float64(), "Pixel size along y (rows) in nm; equal to that along x for square pixels."),
    "nm_per_pixel_source": (
        pa.string(),
        "Source of the pixel size: header (of the file), sidecar (a text file beside it), user (the settings), "
        "scale_bar (burnt into the image), lattice (of the crystal in it) or none.",
    ),
    "pixel_size_problem": (
        pa.string(),
        "Why the pixel size may be wrong: entries of the file that contradict one another, an image that was "
        "cropped or resized since, a scale bar that states another size, or a size that no microscope has. Null when "
        "nothing speaks against it.",
    ),
    "scale_bar": (
        pa.string(),
        "What the burnt-in scale bar states, e.g. '200 nm on 98.5 px', or why it is not used: it has no readable "
        "length, or two bars contradict each other. Null without a bar.",
    ),
    "voltage_kv": (pa.float64(), "Acceleration voltage in kV. NaN when it is unknown."),
    "magnification": (pa.float64(), "Magnification that the microscope indicated. NaN when it is unknown."),
    "instrument": (pa.string(), "Name of the microscope as written in the file. Null when it is unknown."),
    "acquired": (
        pa.string(),
        "Date and time of the acquisition, ISO 8601, as precise as the file gives it. Null when it is unknown.",
    ),
    "dose_e_per_nm2": (pa.float64(), "Electron dose in electrons per square nanometre. NaN when it is unknown."),
    "stated_defocus_nm": (
        pa.float64(),
        "Defocus as the microscope noted it, in nm; negative for underfocus. NaN when it is unknown.",
    ),
    "exposure_s": (pa.float64(), "Exposure time or frame time in s. NaN when it is unknown."),
    "detector": (pa.string(), "Name of the detector or camera as written in the file. Null when it is unknown."),
    "stage_x_um": (pa.float64(), "Position of the stage along x in µm. NaN when it is unknown."),
    "stage_y_um": (pa.float64(), "Position of the stage along y in µm. NaN when it is unknown."),
    "stage_z_um": (pa.float64(), "Position of the stage along z in µm. NaN when it is unknown."),
    "tilt_deg": (pa.float64(), "Tilt of the stage about its first axis in degrees. NaN when it is unknown."),
}

# A row per input file, whatever happened to it.
CATALOG = define_schema(
    {
        "uri": (
            pa.string(),
            "Path of the file in the archive, with forward slashes. With the content hash it identifies the file.",
        ),
        "content_sha256": (
            pa.string(),
            "SHA-256 of the file's bytes. Null when the file was not read (no permission, larger than the limit).",
        ),
        "size_bytes": (pa.int64(), "Size of the file in bytes."),
        "modified_ns": (
            pa.int64(),
            "Time of the last modification in ns since 1970-01-01 UTC. 0 when the archive gives none.",
        ),
        "format": (
            pa.string(),
            "Format of the file's content, e.g. TIFF, MRC, DM3 or PNG. Null when it is not recognised.",
        ),
        "kind": (
            pa.string(),
            "Kind of data in the file: micrograph, stack, spectrum, diffraction, signal, metadata, text, archive or "
            "unknown.",
        ),
        "status": (
            pa.string(),
            "ok; failed (the file should contain a micrograph and could not be read); skipped (it contains none); or "
            "removed (it was no longer in the archive at the last listing).",
        ),
        "reason": (
            pa.string(),
            "Why the file failed or was skipped, or a remark about an ok file (wrong suffix, lost frames). Empty "
            "otherwise.",
        ),
        "error": (pa.string(), "Type and text of the exception. Null when there was none."),
        "n_frames": (pa.int32(), "Number of micrographs that were read from the file."),
        "n_frames_lost": (
            pa.int32(),
            "Number of images that the file should contain and that could not be read; 1 when the number is unknown.",
        ),
        "is_present": (pa.bool_(), "False when the file was no longer in the archive at the last listing."),
    }
)

# A row per micrograph: identity, size, imaging conditions and position in the store.
MICROGRAPHS = define_schema(
    {
        **ID,
        "uri": (pa.string(), "Path of the file in the archive."),
        "frame": (pa.int32(), "Position of the micrograph in its file, from 0."),
        "content_sha256": (pa.string(), "SHA-256 of the file's bytes."),
        "pixel_sha256": (pa.string(), "SHA-256 of the pixels' bytes (C order, little endian)."),
        "height_px": (pa.int64(), "Height of the image in px (rows)."),
        "width_px": (pa.int64(), "Width of the image in px (columns)."),
        "dtype": (pa.string(), "NumPy name of the data type of the pixels, as acquired."),
        "colour_fraction": (
            pa.float64(),
            "Fraction of the pixels whose red, green and blue values differ by more than 8 %. 0 for grey files, and "
            "where the colours are those of a colour map or of annotations.",
        ),
        "colour": (
            pa.string(),
            "What the colours of the file are: 'colour map' and its name (the micrograph has the intensities that the "
            "map shows), 'annotations' (replaced by their surroundings), both, or 'colour' (the micrograph has the "
            "luma). Null for a grey file.",
        ),
        "annotated_fraction": (
            pa.float64(),
            "Fraction of the pixels that coloured annotations covered and that were replaced by their surroundings.",
        ),
        "damage": (
            pa.string(),
            "What the decoder reports about damaged or absent pixels. Null when all pixels are intact.",
        ),
        **_IMAGING_CONDITIONS,
        "header": (
            pa.string(),
            "Metadata of the file as JSON, with the names that the file uses; numbers and short texts only.",
        ),
        "stack": (pa.string(), "Name of the OME-Zarr stack that contains the micrograph."),
        "index": (pa.int64(), "Slot of the micrograph: its position along the n axis of the stack."),
        "partition": (pa.string(), "Name of the partition (shard, task and part file) that contains the micrograph."),
        "path": (
            pa.string(),
            r"Location of the file when it was surveyed. Bytes of a name that are not UTF-8 are written as \xNN.",
        ),
    }
)

# A row per micrograph: a small picture of it.
THUMBNAILS = define_schema(
    {
        **ID,
        "jpeg": (
            pa.binary(),
            "The micrograph as a grey JPEG with stretched contrast. The settings give its longest side (256 px).",
        ),
    }
)
