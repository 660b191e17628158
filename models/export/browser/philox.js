// The noise of images, the same numbers as `models/randomness.py` draws: Philox4x32-10 and Box-Muller.
"use strict";

/** Return the high 32 bits of the product of two 32-bit words. */
function multiplyHigh(a, b) {
  const aLow = a & 0xffff, aHigh = a >>> 16, bLow = b & 0xffff, bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16), other = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + Math.floor(middle / 65536) + (other >>> 16)) >>> 0;
}

/** Return the four words for a counter of four words and a key of two (Salmon et al. 2011). */
function philox([zero, one, two, three], [first, second]) {
  for (let round = 0; round < 10; round++) {
    const high = multiplyHigh(two, 0xcd9e8d57), low = Math.imul(two, 0xcd9e8d57);
    const otherHigh = multiplyHigh(zero, 0xd2511f53), otherLow = Math.imul(zero, 0xd2511f53);
    [zero, one, two, three] = [high ^ one ^ first, low, otherHigh ^ three ^ second, otherLow].map((word) => word >>> 0);
    first = (first + 0x9e3779b9) >>> 0;
    second = (second + 0xbb67ae85) >>> 0;
  }
  return [zero, one, two, three];
}

/** Return draw number `draw` of an image: `size` normals. seed: an integer below 2^53. */
function normals(seed, image, draw, size) {
  const key = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0], result = new Float32Array(roundUp(size, 4));
  for (let block = 0; block < size / 4; block++) {
    const words = philox([block, draw, image >>> 0, Math.floor(image / 2 ** 32)], key);
    for (const pair of [0, 2]) {
      const radius = Math.sqrt(-2 * Math.log((words[pair] + 1) * 2 ** -32)), angle = words[pair + 1] * (2 * Math.PI * 2 ** -32);
      result[4 * block + pair] = radius * Math.cos(angle);
      result[4 * block + pair + 1] = radius * Math.sin(angle);
    }
  }
  return result.subarray(0, size);
}
