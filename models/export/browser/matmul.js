// Products of matrices in WebAssembly. A loop of JavaScript has no vector instructions and takes ten times as long.
//
// The factors lie packed in the memory of the module: the left one in panels of 4 rows, [rows / 4][depth][4], the right
// one in panels of 8 columns, [columns / 8][depth][8]. The product is row-major, with both sizes rounded up to panels.
"use strict";

const ROWS = 4, COLUMNS = 8;

const roundUp = (count, multiple) => Math.ceil(count / multiple) * multiple;

/** Compute 4 rows of a product. All places are in bytes; stride: bytes of a row of the product. */
function plainRows(memory) {
  return (a, b, c, depth, panels, stride) => {
    const floats = new Float32Array(memory.buffer);
    const sums = new Float32Array(ROWS * COLUMNS);
    for (let panel = 0; panel < panels; panel++) {
      sums.fill(0);
      for (let k = 0; k < depth; k++) {
        const left = a / 4 + k * ROWS, right = b / 4 + (panel * depth + k) * COLUMNS;
        for (let row = 0; row < ROWS; row++) {
          for (let column = 0; column < COLUMNS; column++) {
            sums[row * COLUMNS + column] += floats[left + row] * floats[right + column];
          }
        }
      }
      for (let row = 0; row < ROWS; row++) {
        const start = (c + row * stride) / 4 + panel * COLUMNS;
        floats.set(sums.subarray(row * COLUMNS, (row + 1) * COLUMNS), start);
      }
    }
  };
}

/** Return memory that grows in pages, as WebAssembly's does. */
function plainMemory() {
  const memory = { buffer: new ArrayBuffer(65536) };
  memory.grow = (pages) => {
    const larger = new Float32Array(memory.buffer.byteLength / 4 + pages * 16384);
    larger.set(new Float32Array(memory.buffer));
    memory.buffer = larger.buffer;
  };
  return memory;
}

/** Return the bytes of a WebAssembly module that exports `rows`, the same as `plainRows` in vector instructions. */
function assemble() {
  const I32 = 0x7f, V128 = 0x7b, EMPTY = 0x40;
  const number = (value) => (value < 128 ? [value] : [(value & 127) | 128, ...number(value >>> 7)]);
  const list = (items) => [...number(items.length), ...items.flat()];
  const section = (id, content) => [id, ...number(content.length), ...content];
  const text = (word) => list([...word].map((letter) => letter.charCodeAt(0)));
  const get = (local) => [0x20, local], set = (local) => [0x21, local];
  const add = [0x6a], multiply = [0x6c], integer = (value) => [0x41, value]; // below 64
  const vector = (code) => [0xfd, ...number(code)];
  const load = (offset) => [...vector(0), 4, offset], splat = (offset) => [...vector(9), 2, offset];
  const store = (offset) => [...vector(11), 4, offset];
  const [A, B, C, DEPTH, PANELS, STRIDE, LEFT, END, LOW, HIGH, ONE, SUMS] = Array(12).keys();
  const advance = (local, bytes) => [...get(local), ...integer(bytes), ...add, ...set(local)];
  const loop = (...body) => [0x03, EMPTY, ...body.flat(), 0x0b];
  const rows = [...Array(ROWS).keys()];
  const accumulate = (sum, half) => [
    ...get(sum), ...get(ONE), ...get(half), ...vector(0xe6), ...vector(0xe4), ...set(sum),
  ];
  const body = loop(
    rows.flatMap((row) => [0, 1].flatMap((half) => [...vector(12), ...Array(16).fill(0), ...set(SUMS + 2 * row + half)])),
    get(A), set(LEFT),
    get(B), get(DEPTH), integer(4 * COLUMNS), multiply, add, set(END),
    loop(
      get(B), load(0), set(LOW), get(B), load(16), set(HIGH),
      rows.flatMap((row) => [
        ...get(LEFT), ...splat(4 * row), ...set(ONE),
        ...accumulate(SUMS + 2 * row, LOW), ...accumulate(SUMS + 2 * row + 1, HIGH),
      ]),
      advance(LEFT, 4 * ROWS), advance(B, 4 * COLUMNS),
      get(B), get(END), [0x49], [0x0d, 0], // again if B < END
    ),
    get(C), set(LEFT),
    rows.flatMap((row) => [
      ...get(LEFT), ...get(SUMS + 2 * row), ...store(0), ...get(LEFT), ...get(SUMS + 2 * row + 1), ...store(16),
      ...get(LEFT), ...get(STRIDE), ...add, ...set(LEFT),
    ]),
    advance(C, 4 * COLUMNS),
    get(PANELS), integer(1), [0x6b], [0x22, PANELS], [0x0d, 0], // again while panels are left
  );
  const locals = list([[2, I32], [3 + 2 * ROWS, V128]]);
  const code = [...locals, ...body, 0x0b];
  return new Uint8Array([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, // magic number and version
    ...section(1, list([[0x60, ...list(Array(6).fill(I32)), 0]])),
    ...section(2, list([[...text("e"), ...text("m"), 2, 0, 1]])),
    ...section(3, list([0])),
    ...section(7, list([[...text("rows"), 0, 0]])),
    ...section(10, list([[...number(code.length), ...code]])),
  ]);
}

/** Memory with packed matrices, and their products. */
class Multiplier {
  constructor() {
    this.used = 0;
    try {
      this.memory = new WebAssembly.Memory({ initial: 1 });
      const module = new WebAssembly.Module(assemble());
      this.rows = new WebAssembly.Instance(module, { e: { m: this.memory } }).exports.rows;
    } catch (error) { // WebAssembly is forbidden, or the browser lacks its vector instructions
      this.memory = plainMemory();
      this.rows = plainRows(this.memory);
      console.warn(`no vector instructions, so images take longer: ${error.message}`);
    }
  }

  get floats() {
    return new Float32Array(this.memory.buffer);
  }

  /** Return the place of `count` new floats, in floats. */
  reserve(count) {
    const place = this.used;
    this.used += roundUp(count, 4);
    const missing = this.used * 4 - this.memory.buffer.byteLength;
    if (missing > 0) this.memory.grow(Math.ceil(missing / 65536));
    return place;
  }

  /** Multiply the packed matrices at the places a and b into the place c. */
  multiply(a, b, c, rows, depth, columns) {
    const panels = Math.ceil(columns / COLUMNS), stride = 4 * COLUMNS * panels;
    for (let row = 0; row < rows; row += ROWS) {
      this.rows(4 * (a + row * depth), 4 * b, 4 * c + row * stride, depth, panels, stride);
    }
  }
}
