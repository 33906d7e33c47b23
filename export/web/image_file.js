/** Image files as bitmaps, or what is wrong with them. */

// 256 MiB as colors; as in export/preprocessing.py.
const MAX_PIXELS = Math.floor(2 ** 28 / 3);
const NO_IMAGE = "is no PNG, JPEG, BMP, GIF or WebP image";
const TOO_LARGE = `has more than ${MAX_PIXELS} pixels`;
const DAMAGED = "is damaged or cut off";

/**
 * Decodes a PNG, JPEG, BMP, GIF or WebP.
 *
 * Of animations it is the first frame. It is turned and mirrored as its EXIF
 * orientation says. An image of more than `MAX_PIXELS` is refused, a PNG, BMP
 * or GIF before memory is taken for it.
 *
 * @param {Blob} file
 * @returns {Promise<ImageBitmap>}
 * @throws {Error} if it is no such image; says what it is.
 */
export async function decodeImage(file) {
  const contents = new Uint8Array(await file.arrayBuffer());
  const kind = findKind(contents);
  if (!kind) {
    throw new Error(NO_IMAGE);
  }
  if (readPixelCount(kind, contents) > MAX_PIXELS) {
    throw new Error(TOO_LARGE);
  }
  if (kind === "gif") {
    keepFirstFrame(contents);
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(
      new Blob([contents], { type: `image/${kind}` }),
      {
        colorSpaceConversion: "none",
        premultiplyAlpha: "none",
        imageOrientation: "from-image",
      },
    );
  } catch (error) {
    throw new Error(DAMAGED, { cause: error });
  }
  if (bitmap.width * bitmap.height > MAX_PIXELS) {
    bitmap.close();
    throw new Error(TOO_LARGE);
  }
  return bitmap;
}

function findKind(contents) {
  const beginning = String.fromCharCode(...contents.subarray(0, 12));
  const patterns = {
    png: /^\x89PNG\r\n\x1a\n/,
    jpeg: /^\xff\xd8\xff/,
    bmp: /^BM/,
    gif: /^GIF8[79]a/,
    webp: /^RIFF[^]{4}WEBP/,
  };
  return Object.keys(patterns).find((kind) => patterns[kind].test(beginning));
}

/** Returns what the header says; 0 for kinds where it takes a search. */
function readPixelCount(kind, contents) {
  const view = new DataView(contents.buffer);
  if (kind === "png" && contents.length >= 24) {
    return view.getUint32(16) * view.getUint32(20);
  }
  if (kind === "gif" && contents.length >= 10) {
    return view.getUint16(6, true) * view.getUint16(8, true);
  }
  if (kind === "bmp" && contents.length >= 26) {
    return Math.abs(view.getInt32(18, true) * view.getInt32(22, true));
  }
  return 0;
}

/**
 * Makes the first frame of a GIF opaque and the whole of the image.
 *
 * It may be a part of it, and Python reads no more than that part, the color
 * of transparent pixels too.
 *
 * Reference: GIF89a, sections 18, 20 and 23.
 *
 * @param {Uint8Array} contents of the file, which are changed.
 */
function keepFirstFrame(contents) {
  const tableSize = contents[10] & 0x80 ? 3 * 2 ** ((contents[10] & 7) + 1) : 0;
  let position = 13 + tableSize;
  while (contents[position] === 0x21) {
    if (contents[position + 1] === 0xf9) {
      // The flag of a transparent color.
      contents[position + 3] &= ~1;
    }
    position += 2;
    // Blocks, the last one empty.
    while (contents[position] > 0) {
      position += contents[position] + 1;
    }
    position += 1;
  }
  if (contents[position] === 0x2c) {
    // The size of the frame becomes that of the image.
    contents.copyWithin(6, position + 5, position + 9);
    contents.fill(0, position + 1, position + 5);
  }
}
