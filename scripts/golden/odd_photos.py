"""Writes odd photo files and what Pillow makes of them, for the tests of resnext-data.

    pip install -r scripts/suites/requirements.txt
    python scripts/golden/odd_photos.py

Each file is one that people's programs write: orientation in every place, TIFF of the kinds that scanners make, JPEG
with odd sampling or a damaged end, PNG without its end. The table `odd.json` gives, for each, Pillow's size and mean of
red, green and blue over white, or a part of the line that refuses it.
"""

import io
import json
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

OUT = pathlib.Path(__file__).parents[2] / "crates/resnext-data/tests/golden/odd"
WIDTH, HEIGHT = 37, 22
ROWS = []


def pixels():
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([6 * x + y, 220 - 4 * x + y, 30 + 3 * x + 4 * y], -1).clip(0, 255).astype(np.uint8)


def over_white(image):
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def add(name, data, expected=None, tolerance=1.0, error=None, note=None):
    """Writes a file. Pillow's pixels are expected unless others or an error are given."""
    (OUT / name).write_bytes(data)
    row = dict(file=name, tolerance=tolerance)
    if error is not None:
        row["error"] = error
    else:
        if expected is None:
            image = Image.open(io.BytesIO(data))
            image.load()
            expected = over_white(ImageOps.exif_transpose(image))
        expected = np.asarray(expected)
        row.update(size=[expected.shape[1], expected.shape[0]],
                   mean=[round(float(m), 2) for m in expected.reshape(-1, 3).mean(0)],
                   corner=[round(float(m), 2) for m in expected[:8, :8].reshape(-1, 3).mean(0)])
    if note is not None:
        row["note"] = note
    ROWS.append(row)


def saved(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


# EXIF and XMP -------------------------------------------------------------------------------------------------------


def exif(orientation, big_endian=False, kind=3, before=0):
    """EXIF data with `before` other tags in front of the orientation."""
    order = ">" if big_endian else "<"
    value = struct.pack(order + ("HH" if kind == 3 else "I"), *([orientation, 0] if kind == 3 else [orientation]))
    entries = [struct.pack(order + "HHI", 256 + i, 4, 1) + struct.pack(order + "I", 7) for i in range(before)]
    entries.append(struct.pack(order + "HHI", 274, kind, 1) + value)
    head = (b"MM" if big_endian else b"II") + struct.pack(order + "HI", 42, 8)
    return head + struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)


def xmp(orientation, element=False):
    attribute = f' tiff:Orientation="{orientation}"' if not element else ""
    inner = f"<tiff:Orientation>{orientation}</tiff:Orientation>" if element else ""
    return f'<x:xmpmeta><rdf:Description{attribute}>{inner}</rdf:Description></x:xmpmeta>'.encode()


def app1(contents):
    return b"\xff\xe1" + struct.pack(">H", len(contents) + 2) + contents


XMP_NAME = b"http://ns.adobe.com/xap/1.0/\0"


def with_segments(jpeg, *segments):
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunks(png, before=b"", after=b""):
    """A PNG with chunks before its pixels, and between its pixels and its end."""
    return png[:33] + before + png[33:-12] + after + png[-12:]


def riff(webp, *chunks, flags):
    """An extended WebP of a simple one."""
    canvas = (WIDTH - 1).to_bytes(3, "little") + (HEIGHT - 1).to_bytes(3, "little")
    pieces = [(b"VP8X", bytes([flags, 0, 0, 0]) + canvas)]
    body = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in pieces)
    body += webp[12:]
    body += b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def orientations(image):
    jpeg, png = saved(image, "JPEG", quality=92, subsampling=0), saved(image, "PNG")
    webp = saved(image, "WEBP", lossless=True)
    header = b"Exif\0\0"
    add("exif-big-endian.jpg", with_segments(jpeg, app1(header + exif(6, big_endian=True))), tolerance=2)
    add("exif-long.jpg", with_segments(jpeg, app1(header + exif(8, kind=4))), tolerance=2)
    add("exif-behind-tags.jpg", with_segments(jpeg, app1(header + exif(5, before=9))), tolerance=2)
    add("exif-twice-named.jpg", with_segments(jpeg, app1(header + header + exif(7))), tolerance=2)
    data = exif(6, before=9)
    add("exif-in-two-segments.jpg", with_segments(jpeg, app1(header + data[:40]), app1(header + data[40:])), tolerance=2)
    add("exif-behind-others.jpg", with_segments(jpeg, b"\xff\xe2\0\x0aJUNK\xff\xd9\xff\xda", app1(header + exif(3))),
        tolerance=2)
    add("exif-with-fill-bytes.jpg", with_segments(jpeg, b"\xff\xff\xff", app1(header + exif(6))), tolerance=2)
    add("exif-0.jpg", with_segments(jpeg, app1(header + exif(0))), tolerance=2)
    add("exif-9.jpg", with_segments(jpeg, app1(header + exif(9))), tolerance=2)
    add("exif-entry-cut.jpg", with_segments(jpeg, app1(header + exif(6)[:21])), tolerance=2, expected=np.asarray(image))
    add("exif-cut.jpg", with_segments(jpeg, app1(header + exif(6)[:15])), tolerance=2, expected=np.asarray(image))
    add("exif-no-tiff.jpg", with_segments(jpeg, app1(header + b"nothing")), tolerance=2, expected=np.asarray(image))
    add("xmp-attribute.jpg", with_segments(jpeg, app1(XMP_NAME + xmp(6))), tolerance=2)
    add("xmp-element.jpg", with_segments(jpeg, app1(XMP_NAME + xmp(8, element=True))), tolerance=2)
    add("xmp-behind-exif.jpg", with_segments(jpeg, app1(header + exif(3)), app1(XMP_NAME + xmp(6))), tolerance=2)
    add("exif.png", with_chunks(png, before=chunk(b"eXIf", exif(6))))
    add("exif-behind-pixels.png", with_chunks(png, after=chunk(b"eXIf", exif(8))))
    add("exif-named.png", with_chunks(png, before=chunk(b"eXIf", header + exif(5))))
    profile = b"\nexif\n%8d\n" % len(header + exif(6)) + (header + exif(6)).hex().encode() + b"\n"
    add("raw-profile.png", with_chunks(png, before=chunk(b"tEXt", b"Raw profile type exif\0" + profile)))
    add("raw-profile-packed.png",
        with_chunks(png, before=chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile))))
    name = b"XML:com.adobe.xmp\0"
    add("xmp.png", with_chunks(png, before=chunk(b"iTXt", name + b"\0\0\0\0" + xmp(6))))
    add("xmp-packed.png", with_chunks(png, after=chunk(b"iTXt", name + b"\1\0\0\0" + zlib.compress(xmp(8)))))
    add("exif.webp", riff(webp, (b"EXIF", exif(6)), flags=8))
    add("exif-named.webp", riff(webp, (b"EXIF", header + exif(8)), flags=8))
    add("xmp.webp", riff(webp, (b"XMP ", xmp(6)), flags=4))
    add("exif-without-flag.webp", riff(webp, (b"EXIF", exif(6)), flags=0))
    add("xmp-without-flag.webp", riff(webp, (b"XMP ", xmp(6)), flags=8))


# TIFF ---------------------------------------------------------------------------------------------------------------


def tiff(planes, photometric, bits=8, tile=None, strip_rows=None, big_endian=False, big=False, compression=1,
         tags=(), samples=None):
    """A TIFF file. `planes` are arrays (H, W, samples): one if samples are interleaved, several of one sample each."""
    order = ">" if big_endian else "<"
    height, width = planes[0].shape[:2]
    samples = samples or (planes[0].shape[2] if len(planes) == 1 else len(planes))

    def packed(rows):
        if bits >= 16:
            return rows.astype(order + {"u": "u2", "i": "i4", "f": f"f{bits // 8}"}[rows.dtype.kind]).tobytes()
        if bits < 8:
            out = b""
            for row in rows.reshape(rows.shape[0], -1):
                text = "".join(format(int(value), f"0{bits}b") for value in row)
                text += "0" * (-len(text) % 8)
                out += bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
            return out
        return rows.astype(np.uint8).tobytes()

    pieces = []
    for plane in planes:
        if tile:
            for top in range(0, height, tile):
                for left in range(0, width, tile):
                    piece = np.zeros((tile, tile, plane.shape[2]), plane.dtype)
                    part = plane[top : top + tile, left : left + tile]
                    piece[: part.shape[0], : part.shape[1]] = part
                    pieces.append(packed(piece))
        else:
            rows = strip_rows or height
            pieces += [packed(plane[top : top + rows]) for top in range(0, height, rows)]
    if compression == 8:
        pieces = [zlib.compress(piece) for piece in pieces]
    return directory(pieces, order, big, width, height, [bits] * samples, compression, photometric, samples,
                     tile, strip_rows, 2 if len(planes) > 1 else 1, tags)


def directory(pieces, order, big, width, height, bits, compression, photometric, samples, tile, strip_rows, planar,
              tags):
    word = "Q" if big else "I"
    start = 16 if big else 8
    body, offsets = b"", []
    for piece in pieces:
        offsets.append(start + len(body))
        body += piece + b"\0" * (len(piece) % 2)
    entries = {256: (4, [width]), 257: (4, [height]), 258: (3, bits), 259: (3, [compression]), 262: (3, [photometric]),
               277: (3, [samples]), 284: (3, [planar])}
    lengths = [len(piece) for piece in pieces]
    if tile:
        entries.update({322: (4, [tile]), 323: (4, [tile]), 324: (4, offsets), 325: (4, lengths)})
    else:
        entries.update({273: (4, offsets), 278: (4, [strip_rows or height]), 279: (4, lengths)})
    entries.update(dict(tags))
    table, tail = b"", b""
    at = start + len(body)
    size = (8 if big else 2) + len(entries) * (20 if big else 12) + (8 if big else 4)
    for tag, (kind, values) in sorted(entries.items()):
        letter = {1: "B", 3: "H", 4: "I", 7: "B", 8: "h"}[kind]
        data = struct.pack(order + letter * len(values), *values)
        inline = 8 if big else 4
        if len(data) > inline:
            pointer = struct.pack(order + word, at + size + len(tail))
            tail += data + b"\0" * (len(data) % 2)
        else:
            pointer = data + bytes(inline - len(data))
        table += struct.pack(order + "HH" + word, tag, kind, len(values)) + pointer
    count = struct.pack(order + ("Q" if big else "H"), len(entries))
    mark = b"II" if order == "<" else b"MM"
    head = mark + (struct.pack(order + "HHHQ", 43, 8, 0, at) if big else struct.pack(order + "HI", 42, at))
    return head + body + count + table + bytes(8 if big else 4) + tail


def white_blend(rgb, alpha):
    return np.round((rgb.astype(float) * alpha + 255.0 * (255 - alpha)) / 255).astype(np.uint8)


def numbers(grey):
    """Grey samples of 32 bits, which Pillow clips to 0 to 255."""
    floats = grey.astype(np.float32) * 1.5 - 40.3
    floats[0, :3, 0] = np.nan, np.inf, -np.inf
    wide = grey.astype(np.int32) * 3 - 200
    float_format, signed = (339, (3, [3])), (339, (3, [2]))
    add("float.tif", saved(Image.fromarray(floats[..., 0]), "TIFF"))
    add("float-big-endian-tiles.tif", tiff([floats], 1, bits=32, tile=16, big_endian=True, tags=[float_format]))
    add("float-white-is-0.tif", tiff([floats], 0, bits=32, strip_rows=5, tags=[float_format]))
    for compression in ("tiff_lzw", "tiff_adobe_deflate"):
        for predictor in 1, 2, 3:
            name = f"float-{compression.removeprefix('tiff_').replace('_', '-')}-{predictor}.tif"
            add(name, saved(Image.fromarray(floats[..., 0]), "TIFF", compression=compression, tiffinfo={317: predictor}))
    add("float-to-1.tif", saved(Image.fromarray(grey[..., 0] / np.float32(256)), "TIFF"),
        note="none of its floating-point samples is above 1")
    add("32-bit.tif", saved(Image.fromarray(wide[..., 0]), "TIFF"))
    add("32-bit-big-endian.tif", tiff([wide], 1, bits=32, big_endian=True, tags=[signed]))
    half = tiff([floats], 1, bits=16, tags=[float_format])
    add("float-16.tif", half, error="a TIFF with floating-point samples of 16 bits")
    double = tiff([floats], 1, bits=64, tags=[float_format])
    add("float-64.tif", double, error="a TIFF with floating-point samples of 64 bits")
    colours = tiff([np.repeat(floats, 3, -1)], 2, bits=32, tags=[(339, (3, [3] * 3))])
    add("float-rgb.tif", colours, error="a TIFF with floating-point samples that are not grey alone")


def scans(image):
    rgb = pixels()
    grey = rgb[..., :1]
    threes = lambda array: np.repeat(array, 3, -1)
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[:, 20:] = 100
    wide = rgb.astype(np.uint16) * 257
    separate = [rgb[..., c : c + 1] for c in range(3)]
    add("planar-tiles.tif", tiff(separate, 2, tile=16), expected=rgb)
    add("planar-strips.tif", tiff(separate, 2, strip_rows=5), expected=rgb)
    add("planar-16-bit.tif", tiff([plane.astype(np.uint16) * 257 for plane in separate], 2, bits=16, tile=16),
        expected=rgb)
    add("planar-alpha.tif", tiff([*separate, alpha], 2, tile=16, tags=[(338, (3, [2]))]),
        expected=white_blend(rgb, alpha))
    add("planar-cmyk.tif", tiff([255 - plane for plane in separate] + [0 * alpha], 5), expected=rgb)
    add("tiles.tif", tiff([rgb], 2, tile=16), expected=rgb)
    add("big-endian.tif", tiff([wide], 2, bits=16, big_endian=True), expected=rgb)
    add("bigtiff.tif", tiff([rgb], 2, big=True, strip_rows=7), expected=rgb)
    add("bigtiff-big-endian.tif", tiff([rgb], 2, big=True, big_endian=True, tile=16), expected=rgb)
    add("grey-16-bit.tif", tiff([grey.astype(np.uint16) * 257], 1, bits=16), expected=threes(grey))
    add("grey-alpha.tif", tiff([np.concatenate([grey, alpha], -1)], 1, tags=[(338, (3, [2]))]),
        expected=threes(grey), note="transparency")
    add("alpha.tif", tiff([np.concatenate([rgb, alpha], -1)], 2, tags=[(338, (3, [2]))]),
        expected=white_blend(rgb, alpha))
    premultiplied = (rgb.astype(np.uint32) * alpha // 255).astype(np.uint8)
    add("premultiplied.tif", tiff([np.concatenate([premultiplied, alpha], -1)], 2, tags=[(338, (3, [1]))]),
        expected=(premultiplied + (255 - alpha)), tolerance=1)
    add("unused-sample.tif", tiff([np.concatenate([rgb, alpha], -1)], 2, tags=[(338, (3, [0]))]), expected=rgb)
    add("white-is-0.tif", tiff([255 - grey], 0), expected=threes(grey))
    bit = (grey > 128).astype(np.uint8)
    add("1-bit.tif", tiff([bit], 1, bits=1), expected=threes(255 * bit))
    add("1-bit-white-is-0.tif", tiff([1 - bit], 0, bits=1, strip_rows=6), expected=threes(255 * bit))
    reverse = np.array([int(format(i, "08b")[::-1], 2) for i in range(256)], np.uint8)
    raw = tiff([bit], 1, bits=1, tags=[(266, (3, [2]))])
    length = HEIGHT * ((WIDTH + 7) // 8)
    add("1-bit-reversed.tif", raw[:8] + reverse[np.frombuffer(raw[8 : 8 + length], np.uint8)].tobytes() + raw[8 + length :],
        expected=threes(255 * bit))
    add("2-bit.tif", tiff([grey >> 6], 1, bits=2), expected=threes((grey >> 6) * 85))
    add("4-bit-tiles.tif", tiff([grey >> 4], 1, bits=4, tile=16), expected=threes((grey >> 4) * 17))
    colours = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2], 0).astype(np.uint16) * 257
    for bits in (1, 2, 4, 8):
        index = grey >> (8 - bits)
        map = colours[:, : 1 << bits]
        add(f"palette-{bits}-bit.tif", tiff([index], 3, bits=bits, tags=[(320, (3, map.flatten().tolist()))]),
            expected=(map.T[index[..., 0]] >> 8).astype(np.uint8))
    add("cmyk.tif", saved(image.convert("CMYK"), "TIFF"))
    add("ycbcr.tif", saved(image.convert("YCbCr"), "TIFF"), tolerance=3)
    ycc = np.asarray(image.convert("YCbCr"))
    units = b""
    for top in range(0, HEIGHT, 2):
        for left in range(0, WIDTH, 2):
            block = np.pad(ycc, ((0, 2), (0, 3), (0, 0)), "edge")[top : top + 2, left : left + 2]
            units += block[..., 0].tobytes() + bytes(np.round(block[..., 1:].reshape(4, 2).mean(0)).astype(np.uint8))
    add("ycbcr-420.tif", directory([units], "<", False, WIDTH, HEIGHT, [8] * 3, 1, 6, 3, None, HEIGHT, 1,
                                   [(530, (3, [2, 2]))]), expected=rgb, tolerance=4)
    lab = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    lab[..., 0] = 60 + 3 * np.arange(WIDTH)
    lab[..., 1] = (np.arange(HEIGHT)[:, None] - 11).astype(np.int8).view(np.uint8)
    lab[..., 2] = (np.arange(WIDTH) - 18).astype(np.int8).view(np.uint8)
    add("lab.tif", tiff([lab], 8), tolerance=2)
    icc = lab.copy()
    icc[..., 1:] ^= 128
    add("icc-lab.tif", tiff([icc], 9), expected=over_white(Image.open(OUT / "lab.tif")), tolerance=2)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        add(f"{compression.removeprefix('tiff_').replace('_', '-')}.tif", saved(image, "TIFF", compression=compression))
    add("predictor.tif", saved(image, "TIFF", compression="tiff_lzw", tiffinfo={317: 2}))
    add("jpeg.tif", saved(image, "TIFF", compression="jpeg", quality=95), tolerance=4)
    layered = saved(Image.merge("LA", (image.convert("L"), image.getchannel(0))), "TIFF", compression="jpeg")
    add("jpeg-grey-alpha.tif", layered, error="a TIFF with JPEG compression of 2 samples per pixel, which is not read")
    add("unexplained-sample.tif", tiff([np.concatenate([grey, alpha], -1)], 1),
        error="a TIFF with 2 samples per pixel where its colours have 1")
    add("group4.tif", saved(image.convert("1", dither=Image.Dither.NONE), "TIFF", compression="group4"))
    for orientation in (2, 3, 6, 8):
        add(f"orientation-{orientation}.tif", tiff([rgb], 2, tags=[(274, (3, [orientation]))]))
    add("xmp.tif", tiff([rgb], 2, tags=[(700, (1, list(xmp(6))))]))
    numbers(grey)
    signed = tiff([grey], 1, tags=[(339, (3, [2]))])
    add("signed.tif", signed, error="a TIFF with signed samples")
    add("group3.tif", saved(image.convert("1"), "TIFF", compression="group3"), error="CCITT group 3")
    add("zstandard.tif", tiff([rgb], 2, tags=[(259, (3, [50000]))]), error="a TIFF with Zstandard compression")
    add("old-jpeg.tif", tiff([rgb], 6, tags=[(259, (3, [6]))]), error="a TIFF with JPEG compression of the old kind")
    add("sensor.tif", tiff([grey], 32803), error="a TIFF from a camera's sensor")
    add("no-strips.tif", tiff([rgb], 2, strip_rows=7).replace(struct.pack("<HH", 273, 4), struct.pack("<HH", 999, 4)),
        error="a damaged image: the TIFF file has 0 strips")
    whole = tiff([rgb], 2, strip_rows=7)
    add("cut.tif", whole[:8] + whole[8:400], error="a damaged image: the TIFF file")
    add("zero-width.tif", tiff([rgb], 2, tags=[(256, (4, [0]))]), error="gives no width")
    add("bomb.tif", tiff([rgb], 2, tags=[(256, (4, [60000])), (257, (4, [60000]))]), error="60000×60000 pixels")
    add("tile-bomb.tif", tiff([rgb], 2, tile=16, tags=[(322, (4, [1 << 20])), (323, (4, [1 << 20]))]), error="tiles of")


# JPEG ---------------------------------------------------------------------------------------------------------------


def jpegs(image):
    for name, options in [("420", dict(subsampling=2)), ("422", dict(subsampling=1)), ("444", dict(subsampling=0)),
                          ("progressive-420", dict(subsampling=2, progressive=True)),
                          ("restarts", dict(subsampling=2, restart_marker_blocks=2)),
                          ("rgb", dict(keep_rgb=True)), ("progressive-rgb", dict(keep_rgb=True, progressive=True))]:
        add(f"{name}.jpg", saved(image, "JPEG", quality=92, **options), tolerance=2)
    add("grey.jpg", saved(image.convert("L"), "JPEG", quality=92), tolerance=2)
    add("cmyk.jpg", saved(image.convert("CMYK"), "JPEG", quality=95), tolerance=4)
    whole = saved(image, "JPEG", quality=92, subsampling=2)
    # A single component is never subsampled, whatever its factors.
    grey = saved(image.convert("L"), "JPEG", quality=92)
    frame = grey.index(b"\xff\xc0")
    add("grey-2x2.jpg", grey[: frame + 11] + b"\x22" + grey[frame + 12 :], tolerance=2)
    add("trailer.jpg", whole + b"\0" * 20 + b"a film, say", tolerance=2)
    add("junk-between-segments.jpg", whole[:20] + b"\0\0\0" + whole[20:], tolerance=2)
    add("no-end.jpg", whole[:-2], expected=np.asarray(Image.open(io.BytesIO(whole)).convert("RGB")), tolerance=2)
    frame = whole.index(b"\xff\xc0")
    scan = whole.index(b"\xff\xda")
    patched = lambda at, *data: whole[:at] + bytes(data) + whole[at + len(data) :]
    add("lossless.jpg", patched(frame + 1, 0xC3), error="a JPEG with lossless compression, which is not read")
    add("arithmetic.jpg", patched(frame + 1, 0xC9), error="a JPEG with arithmetic coding, which is not read")
    add("hierarchical.jpg", patched(frame + 1, 0xC5), error="a JPEG with hierarchical coding, which is not read")
    add("jpeg-ls.jpg", patched(frame + 1, 0xF7), error="a JPEG with JPEG-LS compression, which is not read")
    add("12-bit.jpg", patched(frame + 4, 12), error="a JPEG with 12 bits per sample, which is not read")
    add("height-behind.jpg", patched(frame + 5, 0, 0), error="a JPEG with its height after the pixels")
    add("zero-width.jpg", patched(frame + 7, 0, 0), error="0×22 pixels")
    add("bomb.jpg", patched(frame + 5, 0xFF, 0xFF, 0xFF, 0xFF), error="65535×65535 pixels")
    add("no-frame.jpg", whole[:frame] + whole[scan:], error="a damaged image: the JPEG file has no frame")
    add("no-scan.jpg", whole[:scan], error="a damaged image: the JPEG file ends before its pixels")
    add("sampling-0.jpg", patched(frame + 11, 0), error="a damaged image: the JPEG file's frame is damaged")


def contradictory_jpegs():
    """JPEGs of a size that the faster decoder takes, whose parts contradict each other: libjpeg decides."""
    y, x = np.mgrid[0:80, 0:96]
    rgb = np.stack([2 * x + y, 200 - x + y // 2, 40 + x + 2 * y], -1).clip(0, 255).astype(np.uint8)
    rgb[::7, ::5] ^= 48
    image = Image.fromarray(rgb)
    whole = saved(image, "JPEG", quality=92, subsampling=0)
    restarts = saved(image, "JPEG", quality=92, subsampling=0, restart_marker_blocks=30)
    progressive = saved(image, "JPEG", quality=92, subsampling=0, progressive=True)
    damaged = "damaged: parts of the picture may be wrong"
    middle = (whole.index(b"\xff\xda") + len(whole)) // 2
    middle += whole[middle - 1] == 255
    add("early-end.jpg", whole[:middle] + b"\xff\xd9" + whole[middle:], tolerance=2, note=damaged)
    frame = whole.index(b"\xff\xc0")
    taller = whole[: frame + 5] + struct.pack(">H", 140) + whole[frame + 7 :]
    add("more-rows-than-data.jpg", taller, tolerance=2, note=damaged)
    interval = restarts.index(b"\xff\xdd\0\4")
    add("restarts-without-interval.jpg", restarts[:interval] + restarts[interval + 6 :], tolerance=2, note=damaged)
    second, third = restarts.index(b"\xff\xd1"), restarts.index(b"\xff\xd2")
    order = restarts[:second] + b"\xff\xd2" + restarts[second + 2 : third] + b"\xff\xd1" + restarts[third + 2 :]
    add("restarts-out-of-order.jpg", order, tolerance=2, note=damaged)
    second_tables = progressive.index(b"\xff\xc4", progressive.index(b"\xff\xda"))
    add("first-scan-only.jpg", progressive[:second_tables] + b"\xff\xd9", tolerance=2)
    whole_scan = Image.open(io.BytesIO(progressive[:second_tables] + b"\xff\xd9")).convert("RGB")
    add("cut-in-a-table.jpg", progressive[: second_tables + 9], expected=whole_scan, tolerance=2, note="cut short")
    later_scan = progressive.index(b"\xff\xda", second_tables)
    add("cut-in-a-scans-header.jpg", progressive[: later_scan + 6], expected=whole_scan, tolerance=2, note="cut short")
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"
    add("jfif-and-adobe-rgb.jpg", whole[:20] + adobe + whole[20:], tolerance=2)
    named = bytearray(whole)
    scan = whole.index(b"\xff\xda")
    for i, name in enumerate(b"RGB"):
        named[frame + 10 + 3 * i] = named[scan + 5 + 2 * i] = name
    add("jfif-named-rgb.jpg", bytes(named), tolerance=2)


# The rest -----------------------------------------------------------------------------------------------------------


def others(image):
    png = saved(image, "PNG")
    add("no-end.png", png[:-12])
    add("half-end.png", png[:-5])
    pixel_data = png.index(b"IDAT")
    length = struct.unpack(">I", png[pixel_data - 4 : pixel_data])[0]
    end = pixel_data + 4 + length
    add("bad-checksum.png", png[:end] + bytes(4) + png[end + 4 :], note="checksum")
    add("cut.png", png[: len(png) // 2], error="a damaged image: the PNG file ends within its pixels")
    add("bomb.png", png[:16] + struct.pack(">II", 60000, 60000) + png[24:29] +
        struct.pack(">I", zlib.crc32(png[12:16] + struct.pack(">II", 60000, 60000) + png[24:29])) + png[33:],
        error="60000×60000 pixels")
    zero = png[:16] + struct.pack(">II", 0, 22) + png[24:29]
    add("zero-width.png", zero + struct.pack(">I", zlib.crc32(zero[12:])) + png[33:], error="damaged")
    add("apple.png", png[:8] + chunk(b"CgBI", b"\x50\0\x20\2") + png[8:], error="a PNG of Apple's own kind")
    add("unknown-chunk.png", with_chunks(png, before=chunk(b"prVt", b"anything")))
    for bits in (1, 2, 4):
        add(f"palette-{bits}-bit.png", saved(image.quantize(1 << bits), "PNG", bits=bits))
    add("grey-alpha.png", saved(Image.merge("LA", (image.convert("L"), image.getchannel(0))), "PNG"))
    add("transparent-colour.png", saved(image, "PNG", transparency=image.getpixel((3, 3))))
    add("grey-16-bit.png", saved(Image.fromarray(pixels()[..., 0].astype(np.uint16) * 257), "PNG"))
    add("lossy.webp", saved(image, "WEBP", quality=90), tolerance=3)
    add("alpha.webp", saved(Image.merge("RGBA", (*image.split(), image.getchannel(0))), "WEBP", lossless=True))
    add("transparent.gif", saved(image.quantize(16), "GIF", transparency=3))
    add("rle.bmp", saved(image.convert("L"), "BMP"))
    add("1-bit.bmp", saved(image.convert("1"), "BMP"))
    add("alpha.ico", saved(Image.merge("RGBA", (*image.split(), image.getchannel(0))), "ICO", sizes=[(WIDTH, HEIGHT)]))
    add("plain.ppm", saved(image, "PPM"))
    add("plain.pgm", saved(image.convert("L"), "PPM"))
    add("plain.pbm", saved(image.convert("1"), "PPM"))
    add("text.ppm", f"P3 # a comment\n2 1\n255\n255 0 0  0 0 255\n".encode(), expected=[[[255, 0, 0], [0, 0, 255]]])
    add("plain.tga", saved(image, "TGA"), error="a Targa image, which is not read")
    add("grey.tga", saved(image.convert("L"), "TGA", compression="tga_rle"), error="a Targa image, which is not read")
    add("palette.tga", saved(image.quantize(16), "TGA"), error="a Targa image, which is not read")
    add("plain.pcx", saved(image, "PCX"), error="a PCX image, which is not read")
    add("plain.qoi", saved(image, "QOI"))
    brand = lambda *brands: struct.pack(">I", 8 + 4 * len(brands) + 4) + b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    add("phone.heic", brand(b"heic", b"mif1", b"heic"), error="a HEIC image, which is not read")
    add("structure.heif", brand(b"mif1", b"mif1", b"heic"), error="a HEIC image, which is not read")
    add("still.avif", brand(b"mif1", b"mif1", b"avif"), error="an AVIF image, which is not read")
    add("phone.avif", brand(b"avif", b"avif"), error="an AVIF image, which is not read")
    add("film.mp4", brand(b"isom", b"mp41"), error="a video, which is not read")
    add("camera.cr3", brand(b"crx ", b"isom"), error="a camera's raw file, which is not read")
    add("plain.jxl", b"\xff\x0a" + bytes(30), error="a JPEG XL image, which is not read")
    add("plain.jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(30), error="a JPEG 2000 image, which is not read")
    add("document.pdf", b"%PDF-1.7\n", error="a PDF document, which is not read")
    add("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", error="an SVG drawing, which is not read")
    add("page.jpg", b"<!doctype html><html></html>", error="not an image: the file is a web page")
    add("empty.jpg", b"", error="not an image: the file is empty")
    add("one-byte.jpg", b"\xff", error="not an image: expected JPEG, PNG")
    add("jpeg-named.png", saved(image, "JPEG", quality=92, subsampling=0), tolerance=2)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels())
    orientations(image)
    scans(image)
    jpegs(image)
    contradictory_jpegs()
    others(image)
    text = ",\n".join(json.dumps(row) for row in ROWS)
    (OUT.parent / "odd.json").write_text(f"[\n{text}\n]\n")
    print(f"{len(ROWS)} files, {sum(file.stat().st_size for file in OUT.iterdir())} bytes")


main()
