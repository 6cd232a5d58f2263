"""TIFF files with the tags that programs of microscopes write; one function per program, from the same conditions."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import tifffile

SHAPE = (48, 64)


@dataclass(frozen=True)
class Conditions:
    """What a program writes about an image."""

    nm: float = 2.5
    nm_y: float = 2.5
    voltage_kv: float = 5.0
    magnification: float = 20000.0
    acquired: datetime = datetime(2019, 12, 5, 13, 2, 3)
    detector: str = "TLD"
    stage_um: tuple[float, float, float] = (1500.0, -250.5, 4000.0)
    tilt_deg: float = 52.0
    exposure_s: float = 1.5
    current_a: float = 5e-11
    dwell_s: float = 1e-6


def write_image(path: Path, tags=(), shape: tuple[int, int] = SHAPE, **options) -> Path:
    """A grey image with extra tags (number, text or bytes)."""
    extra = []
    for number, value in tags:
        data = value.encode() + b"\0" if isinstance(value, str) else value
        extra.append((number, 2 if isinstance(value, str) else 1, len(data), data, True))
    tifffile.imwrite(path, np.zeros(shape, np.uint8), extratags=extra, **({"metadata": None} | options))
    return path


def write_fei(path: Path, c: Conditions) -> Path:
    """xT of FEI: one text with sections; metres, volts and radians."""
    x, y, z = (f"{um * 1e-6:.9g}" for um in c.stage_um)
    h, w = SHAPE
    text = f"[User]\r\nDate={c.acquired:%m/%d/%Y}\r\nTime={c.acquired:%I:%M:%S %p}\r\n[System]\r\nSystemType=Helios\r\n"
    text += f"[Beam]\r\nHV={c.voltage_kv * 1e3:.9g}\r\nBeam=EBeam\r\nScan=EScan\r\n"
    text += f"[EBeam]\r\nHV={c.voltage_kv * 1e3:.9g}\r\nHFW={c.nm * w * 1e-9:.9g}\r\nVFW={c.nm_y * h * 1e-9:.9g}\r\n"
    text += f"BeamCurrent={c.current_a:.9g}\r\n[Scan]\r\nDwelltime={c.dwell_s:.9g}\r\nFrameTime={c.exposure_s:.9g}\r\n"
    text += f"PixelWidth={c.nm * 1e-9:.9g}\r\nPixelHeight={c.nm_y * 1e-9:.9g}\r\nAverage=0\r\nIntegrate=1\r\n"
    text += f"[Stage]\r\nStageX={x}\r\nStageY={y}\r\nStageZ={z}\r\nStageR=0\r\nStageT={np.radians(c.tilt_deg):.9g}\r\n"
    text += f"[Image]\r\nResolutionX={w}\r\nResolutionY={h}\r\n[Detectors]\r\nNumber=1\r\nName={c.detector}\r\n"
    text += f"[PrivateFei]\r\nTimeOfCreation={c.acquired:%d.%m.%Y %H:%M:%S}\r\n"
    return write_image(path, [(34682, text)])


def write_thermo_xml(path: Path, c: Conditions) -> Path:
    """Newer software of the same firm: XML in tag 34683."""
    x, y, z = (f"{um * 1e-6:.9g}" for um in c.stage_um)
    text = f"""<?xml version="1.0"?><Metadata xmlns:nil="http://schemas.fei.com/Metadata/v1/2013/07">
<Instrument><InstrumentClass>Helios</InstrumentClass></Instrument>
<Acquisition><AcquisitionDatetime>{c.acquired.isoformat()}</AcquisitionDatetime><BeamType>Electron</BeamType>
</Acquisition><Optics><AccelerationVoltage>{c.voltage_kv * 1e3:.9g}</AccelerationVoltage>
<BeamCurrent>{c.current_a:.9g}</BeamCurrent>
<ScanFieldOfView><X>{c.nm * SHAPE[1] * 1e-9:.9g}</X><Y>{c.nm_y * SHAPE[0] * 1e-9:.9g}</Y></ScanFieldOfView></Optics>
<Detectors><ScanningDetector><DetectorName>{c.detector}</DetectorName></ScanningDetector></Detectors>
<ScanSettings><DwellTime>{c.dwell_s:.9g}</DwellTime><FrameTime>{c.exposure_s:.9g}</FrameTime></ScanSettings>
<StageSettings><StagePosition><X>{x}</X><Y>{y}</Y><Z>{z}</Z>
<Tilt><Alpha>{np.radians(c.tilt_deg):.9g}</Alpha></Tilt></StagePosition></StageSettings>
<BinaryResult><PixelSize><X unit="m" unitPrefixPower="1">{c.nm * 1e-9:.9g}</X>
<Y unit="m" unitPrefixPower="1">{c.nm_y * 1e-9:.9g}</Y></PixelSize></BinaryResult></Metadata>"""
    return write_image(path, [(34683, text)])


def write_zeiss(path: Path, c: Conditions) -> Path:
    """SmartSEM: numbers without a name, then a key and a line of name and value for each parameter."""
    numbers = ["0", "0", "0", f"{c.nm * 1e-9 * SHAPE[1] / 1024:.9g}", *["0"] * 5]
    x, y, z = (f"{um * 1e-3:.9g} mm" for um in c.stage_um)
    pairs = {
        "AP_IMAGE_PIXEL_SIZE": f"Image Pixel Size = {c.nm:.4g} nm", "AP_ACTUALKV": f"EHT = {c.voltage_kv:.9g} kV",
        "AP_MAG": f"Mag = {c.magnification / 1000:.9g} K X", "AP_DATE": f"Date :{c.acquired:%d %b %Y}",
        "AP_TIME": f"Time :{c.acquired:%H:%M:%S}", "DP_DETECTOR_CHANNEL": f"Signal A = {c.detector}",
        "AP_STAGE_AT_X": f"Stage at X = {x}", "AP_STAGE_AT_Y": f"Stage at Y = {y}",
        "AP_STAGE_AT_Z": f"Stage at Z = {z}", "AP_STAGE_AT_T": f"Stage at T = {c.tilt_deg:.9g} °",
        "AP_FRAME_TIME": f"Frame Time = {c.exposure_s * 1e3:.9g} ms",
        "AP_IPROBE": f"I Probe = {c.current_a * 1e12:.9g} pA", "DP_DWELL_TIME": f"Dwell = {c.dwell_s * 1e9:.9g} ns",
        "DP_SEM": "SEM = Merlin", "DP_IMAGE_STORE": f"Store resolution = {SHAPE[1]} * {SHAPE[0]}",
        "AP_WIDTH": f"Width = {c.nm * SHAPE[1] * 1e-3:.4g} um",
    }  # fmt: skip
    lines = [*numbers, *(line for pair in pairs.items() for line in pair)]
    return write_image(path, [(34118, ("\r\n".join(lines) + "\r\n").encode("cp1252"))])


def write_fibics(path: Path, c: Conditions) -> Path:
    """ATLAS: XML; micrometres, picoamperes, nanoseconds and volts."""
    x, y, z = c.stage_um
    h, w = SHAPE
    text = f"""<?xml version="1.0" encoding="iso-8859-1"?><Fibics version="1.0"><Application>
<Date>{c.acquired.isoformat()}</Date></Application><Image><Width>{w}</Width><Height>{h}</Height><Machine>Merlin</Machine>
<Beam>SEM</Beam><Detector>{c.detector}</Detector></Image><Scan><Dwell units="ns">{c.dwell_s * 1e9:.9g}</Dwell>
<LineAvg>1</LineAvg><FOV_X units="um">{c.nm * w * 1e-3:.9g}</FOV_X><FOV_Y units="um">{c.nm_y * h * 1e-3:.9g}</FOV_Y>
<Ux>{c.nm * 1e-3 * 0.8:.9g}</Ux><Uy>{c.nm * 1e-3 * 0.6:.9g}</Uy><Vx>{-c.nm_y * 1e-3 * 0.6:.9g}</Vx>
<Vy>{c.nm_y * 1e-3 * 0.8:.9g}</Vy></Scan>
<Stage><X units="um">{x:.9g}</X><Y units="um">{y:.9g}</Y><Z units="um">{z:.9g}</Z>
<Tilt>{c.tilt_deg:.9g}</Tilt></Stage><BeamInfo><item name="BeamI">{c.current_a * 1e12:.9g}</item>
<item name="AccV">{c.voltage_kv * 1e3:.9g}</item></BeamInfo></Fibics>"""
    return write_image(path, [(51023, text)])


def write_orion(path: Path, c: Conditions) -> Path:
    """Zeiss Orion: XML, each entry with value and units."""
    x, y, z = c.stage_um
    entry = lambda name, value, unit="": f"<{name}><Value>{value}</Value><Units>{unit}</Units></{name}>"  # noqa: E731
    text = "<ImageTags>" + entry("AccelerationVoltage", f"{c.voltage_kv * 1e3:.9g}", "V")
    text += entry("ScalingX", f"{c.nm * 1e-9:.9g}", "m") + entry("ScalingY", f"{c.nm_y * 1e-9:.9g}", "m")
    text += entry("Fov", f"{c.nm * SHAPE[1] * 1e-3:.9g}", "um") + entry("ImageWidth", SHAPE[1])
    text += (
        entry("StageX", f"{x:.9g}", "um") + entry("StageY", f"{y:.9g}", "um") + entry("StageZ", f"{z / 1e3:.9g}", "mm")
    )
    text += entry("StageTilt", f"{c.tilt_deg:.9g}", "deg") + entry("DetectorName", c.detector)
    text += entry("TimeStamp", f"{c.acquired:%m/%d/%Y %I:%M:%S %p}") + "</ImageTags>"
    return write_image(path, [(65000, text)])


def write_tescan(path: Path, c: Conditions) -> Path:
    """Tescan: blocks of length, type and text, the first one a thumbnail."""
    x, y, z = (f"{um * 1e-6:.9g}" for um in c.stage_um)
    main = f"AccFrames=1\r\nDate={c.acquired:%Y-%m-%d}\r\nDevice=MIRA3\r\nMagnification={c.magnification:.9g}\r\n"
    main += f"PixelSizeX={c.nm * 1e-9:.9g}\r\nPixelSizeY={c.nm_y * 1e-9:.9g}\r\nTime={c.acquired:%H:%M:%S}\r\n"
    sem = f"Detector={c.detector}\r\nDwellTime={c.dwell_s:.9g}\r\nHV={c.voltage_kv * 1e3:.9g}\r\n"
    sem += f"PredictedBeamCurrent={c.current_a:.9g}\r\nStageTilt={c.tilt_deg:.9g}\r\n"
    sem += f"StageX={x}\r\nStageY={y}\r\nStageZ={z}\r\n"
    thumbnail = b"\xff\xd8\xff\xe0\x00\x10JFIF\0PixelSizeX=1\r\n" + bytes(range(256))
    blocks = [(1, thumbnail), (2, main.encode()), (3, sem.encode()), (0, b"")]
    return write_image(path, [(50431, b"".join(struct.pack("<IH", len(d) + 2, kind) + d for kind, d in blocks))])


def write_tvips(path: Path, c: Conditions, mode: int = 1) -> Path:
    """EM-MENU: a binary structure of version 2."""
    first = np.zeros((), np.dtype(tifffile.TIFF.TVIPS_HEADER_V1))
    second = np.zeros((), np.dtype(tifffile.TIFF.TVIPS_HEADER_V2))
    first["Version"] = 2
    second["Magic"] = 0xAAAAAAAA
    second["PixelSizeX"] = c.nm
    second["PixelSizeY"] = c.nm_y
    second["ImageSizeX"] = SHAPE[1]
    second["TemHighTension"] = c.voltage_kv * 1e3
    second["TemMode"] = mode
    second["TemMagnification"] = c.magnification
    second["ExposureTime"] = c.exposure_s * 1e3
    second["TemStagePosition"] = [*(um * 1e-6 for um in c.stage_um), c.tilt_deg, 0]
    second["CameraType"] = np.void(c.detector.encode("utf-16-le").ljust(160, b"\0"))
    second["Date"] = c.acquired.year * 65536 + c.acquired.month * 256 + c.acquired.day
    second["Time"] = c.acquired.hour * 3600 + c.acquired.minute * 60 + c.acquired.second
    return write_image(path, [(37706, first.tobytes() + second.tobytes())])


def write_olympus(path: Path, c: Conditions) -> Path:
    """Olympus SIS: a tag with the offset of a structure, which holds the offset of another."""
    tifffile.imwrite(path, np.zeros(SHAPE, np.uint16), extratags=[(33560, 4, 1, 8, True)], metadata=None)
    with tifffile.TiffFile(path) as tif:
        position = tif.pages.first.tags[33560].offset + 8  # of the value in the entry
    data = bytearray(path.read_bytes())
    start = len(data)
    data[position : position + 4] = struct.pack("<I", start)
    t = c.acquired
    head = struct.pack("<4s6xhhhhh6x32sH", b"SIS0", t.minute, t.hour, t.day, t.month - 1, t.year - 1900, b"", 1)
    head += struct.pack("<hhI", 1, 1, start + 68)
    values = (-9, c.nm, c.nm_y, c.magnification, c.detector.encode(), b"")
    path.write_bytes(bytes(data) + head + struct.pack("<10xhdd8xd2x34s32s", *values))
    return path


def write_sightx(path: Path, c: Conditions) -> Path:
    """JEOL SightX: XML in the description; the resolution tags state the camera's pixels."""
    stage = "".join(f"<M{axis}>{um * 1e3:.9g}</M{axis}>" for axis, um in zip("XY", c.stage_um))
    text = f"""<TemReporter><Eos><EosMode>eosTEM</EosMode></Eos><Instruments>JEM-F200</Instruments>
<ElectronGun><AccelerationVoltage>{c.voltage_kv * 1e3:.9g}</AccelerationVoltage></ElectronGun>
<IlluminationSystem><ImageField>modeBF</ImageField>
<SelectorValue>3</SelectorValue></IlluminationSystem><DateTime>{c.acquired.isoformat()}</DateTime>
<ImageFormingSystem><ModeString>MAG</ModeString><ImageFormingMode>modeMAG</ImageFormingMode>
<SelectorString>x20k</SelectorString><SelectorValue>{c.magnification:.9g}</SelectorValue></ImageFormingSystem>
<GonioStage><StagePosition>{stage}<TX>{c.tilt_deg:.9g}</TX></StagePosition></GonioStage></TemReporter>"""
    per_cm = [1e7 / (nm * c.magnification) for nm in (c.nm, c.nm_y)]
    return write_image(path, [(271, "JEOL Ltd.")], description=text, resolution=per_cm, resolutionunit=3)


def write_analysis_station(path: Path, c: Conditions) -> Path:
    """JEOL Analysis Station."""
    text = f"""<TemReporter2><MeasurementReporter><a_MeasurementUnitType>UnitType_Length</a_MeasurementUnitType>
<a_MeasureLengthPerPixelReporter><a_LengthPerPixel>{c.nm:.9g}</a_LengthPerPixel></a_MeasureLengthPerPixelReporter>
<a_SelectorValue>{c.magnification:.9g}</a_SelectorValue><a_AccVoltage>{c.voltage_kv * 1e3:.9g}</a_AccVoltage>
</MeasurementReporter><b_DetectorKind>{c.detector}</b_DetectorKind></TemReporter2>"""
    return write_image(path, description=text)


def write_digitalmicrograph(path: Path, c: Conditions) -> Path:
    """Gatan DigitalMicrograph: units and scales of x and y."""
    extra = [(65003, 2, 3, b"nm\0", True), (65004, 2, 3, "µm".encode("cp1252") + b"\0", True)]
    extra += [(65009, 12, 1, c.nm, True), (65010, 12, 1, c.nm_y * 1e-3, True)]
    tifffile.imwrite(path, np.zeros(SHAPE, np.uint8), extratags=extra, metadata=None, resolution=(72, 72))
    return path


def write_imagej(path: Path, c: Conditions) -> Path:
    """ImageJ: pixels per micron."""
    scale = (1e3 / c.nm, 1e3 / c.nm_y)
    tifffile.imwrite(path, np.zeros(SHAPE, np.uint8), imagej=True, resolution=scale, metadata={"unit": "\\u00B5m"})
    return path


def write_amt(path: Path, c: Conditions) -> Path:
    """AMT cameras: a line of text with pixels per micrometre."""
    text = (
        f"AMT Camera System.{c.acquired:%m/%d/%y.%H:%M}.{c.magnification:.0f}.7.0.80.1.Imaging.....-79.811.-552.583.."
    )
    text += f"XpixCal={1e3 / c.nm:.9f}.YpixCal={1e3 / c.nm_y:.9f}.Unit=micron.##fv3"
    return write_image(path, description=text)


def write_point_electronic(path: Path, c: Conditions) -> Path:
    """DISS of point electronic: XMP."""
    text = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 5.1.2"><rdf:RDF
xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:pe="http://ns.pointelectronic.com/1.0/"
xmlns:xmp="http://ns.adobe.com/xap/1.0/"><rdf:Description xmp:CreatorTool="point electronic DISS 5.15.31.0"
xmp:CreateDate="{c.acquired.isoformat()}"/><rdf:Description><pe:PixelSizeX>{c.nm * 1e-9:.9g}</pe:PixelSizeX>
<pe:PixelSizeY>{c.nm_y * 1e-9:.9g}</pe:PixelSizeY></rdf:Description></rdf:RDF></x:xmpmeta>"""
    return write_image(path, [(700, text.encode())])


_SEM = ("voltage_kv", "acquired", "detector", "stage_um", "tilt_deg", "dose")
# Writers, and what of the conditions their files hold beside the pixel size.
WRITERS: dict[str, tuple[Callable[[Path, Conditions], Path], tuple[str, ...]]] = {
    "fei": (write_fei, (*_SEM, "exposure_s", "nm_y")),
    "thermo_xml": (write_thermo_xml, (*_SEM, "exposure_s", "nm_y")),
    "zeiss": (write_zeiss, (*_SEM, "exposure_s", "magnification")),
    "fibics": (write_fibics, (*_SEM, "nm_y")),
    "orion": (write_orion, ("voltage_kv", "acquired", "detector", "stage_um", "tilt_deg", "nm_y")),
    "tescan": (write_tescan, (*_SEM, "magnification", "nm_y")),
    "tvips": (write_tvips, (*_SEM[:5], "exposure_s", "magnification", "nm_y")),
    "olympus": (write_olympus, ("magnification", "detector", "nm_y")),
    "sightx": (write_sightx, ("voltage_kv", "acquired", "magnification", "tilt_deg", "nm_y")),
    "analysis_station": (write_analysis_station, ("voltage_kv", "detector", "magnification")),
    "digitalmicrograph": (write_digitalmicrograph, ("nm_y",)),
    "imagej": (write_imagej, ("nm_y",)),
    "amt": (write_amt, ("nm_y",)),
    "point_electronic": (write_point_electronic, ("acquired", "nm_y")),
}
