// Runs the graph of a network: first a plan for a batch size, once, then the steps of the plan at each evaluation.
"use strict";

/** Return 16-bit floats as 32-bit floats. */
function fromHalf(halves) {
  const powers = Array.from({ length: 32 }, (_, exponent) => 2 ** (exponent - 25));
  const result = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) {
    const exponent = (halves[i] >> 10) & 31, fraction = halves[i] & 1023;
    const size = exponent === 0 ? fraction * powers[1] : (fraction + 1024) * powers[exponent];
    result[i] = halves[i] & 0x8000 ? -size : size;
  }
  return result;
}

/** Pack lines in panels: element k of line l is at lines[l] + depth[k]. Four lines at once take half the time. */
function packPanels(source, lines, depth, panel, target) {
  for (let line = 0; line < lines.length; line += 4) {
    const one = lines[line], two = lines[line + 1], three = lines[line + 2], four = lines[line + 3];
    let to = (line - (line % panel)) * depth.length + (line % panel);
    for (let k = 0; k < depth.length; k++, to += panel) {
      const offset = depth[k];
      target[to] = source[one + offset];
      target[to + 1] = source[two + offset];
      target[to + 2] = source[three + offset];
      target[to + 3] = source[four + offset];
    }
  }
}

/** Return the constants of a graph as tensors. buffer: their values, one after the other. */
function readConstants(constants, buffer) {
  let start = 0;
  return constants.map(({ shape, half }) => {
    const size = count(shape), bytes = buffer.slice(start, (start += size * (half ? 2 : 4)));
    const data = half ? fromHalf(new Uint16Array(bytes)) : new Float32Array(bytes);
    return { data, shape, strides: denseStrides(shape), offset: 0, constant: true };
  });
}

/** The computations for a batch size. Those that depend on constants alone run once, while the plan is made. */
class Plan {
  constructor(graph, constants, multiplier, batch) {
    this.multiplier = multiplier;
    this.steps = [];
    this.tables = new Map();
    this.scratch = { left: 0, right: 0, product: 0 }; // the largest sizes so far; at the end, places
    this.constant = false;
    const sizes = (shape) => shape.map((size) => (size < 0 ? -size * batch : size));
    this.inputs = graph.inputs.map((shape) => this.tensor(sizes(shape)));
    const values = [...this.inputs];
    for (const operation of graph.operations) {
      const operands = operation.in.map((number) => (number < 0 ? constants[-1 - number] : values[number]));
      this.constant = operands.every((operand) => operand.constant);
      const { rows } = operation;
      const options = rows === undefined ? operation : { ...operation, rows: sizes([rows])[0] };
      values.push(OPERATIONS[operation.op](options, operands, sizes(operation.shape), this));
    }
    this.constant = false;
    this.output = this.dense(values[graph.output]).data;
    for (const [name, size] of Object.entries(this.scratch)) this.scratch[name] = multiplier.reserve(size);
  }

  /** Return the network's output. The next evaluation overwrites it. */
  run(inputs) {
    inputs.forEach((input, index) => this.inputs[index].data.set(input));
    for (const step of this.steps) step();
    return this.output;
  }

  /** Compute a step at every evaluation, or now if it depends on constants alone. */
  add(step, constant = this.constant) {
    if (constant) step();
    else this.steps.push(step);
  }

  tensor(shape) {
    const data = new Float32Array(count(shape));
    return { data, shape, strides: denseStrides(shape), offset: 0, constant: this.constant };
  }

  /** Return the tensor with its elements in order, copied if they are not. */
  dense(tensor) {
    const size = count(tensor.shape);
    if (isDense(tensor) && tensor.data.length === size) return tensor;
    const data = new Float32Array(size), from = this.places(tensor);
    this.add(() => gather(tensor.data, from, data), tensor.constant);
    return { ...tensor, data, strides: denseStrides(tensor.shape), offset: 0 };
  }

  /** Copy a tensor into a view of the same sizes. */
  copy(source, target) {
    const { data, length } = { data: this.dense(source).data, length: count(source.shape) }, to = this.places(target);
    this.add(() => {
      for (let i = 0; i < length; i++) target.data[to[i]] = data[i];
    });
  }

  /** Return the places of a tensor's elements. Many layers share them. */
  places(tensor) {
    const key = [tensor.shape, tensor.strides, tensor.offset].join(" ");
    if (!this.tables.has(key)) this.tables.set(key, places(tensor));
    return this.tables.get(key);
  }

  /** Pack a factor of a product, "left" or "right", and return its place.
   *
   * Element k of a row (left) or column (right) is at lines[row] + depth[k]. A constant factor is packed once. Others
   * are packed at every evaluation, into memory that they share; their place is null.
   */
  pack(side, tensor, lines, depth) {
    const panel = side === "left" ? ROWS : COLUMNS, { multiplier, scratch } = this;
    const filled = new Int32Array(roundUp(lines.length, panel)), size = filled.length * depth.length;
    filled.set(lines); // the lines that fill the last panel repeat the first one, and nothing reads their products
    const source = tensor.data.subarray(tensor.offset);
    const fixed = tensor.constant ? multiplier.reserve(size) : null;
    scratch[side] = Math.max(scratch[side], size);
    this.add(() => {
      const target = multiplier.floats.subarray(fixed ?? scratch[side]);
      packPanels(source, filled, depth, panel, target);
    }, tensor.constant);
    return fixed;
  }

  /** Multiply packed factors, and pass the product with the length of its rows to `finish`. */
  multiply(left, right, [rows, depth, columns], finish) {
    const stride = roundUp(columns, COLUMNS), { multiplier, scratch } = this;
    scratch.product = Math.max(scratch.product, roundUp(rows, ROWS) * stride);
    this.add(() => {
      multiplier.multiply(left ?? scratch.left, right ?? scratch.right, scratch.product, rows, depth, columns);
      finish(multiplier.floats.subarray(scratch.product), stride);
    });
  }
}

/** A network that runs for any batch size. graph: as `page.py` writes it. buffer: values of constants, in order. */
class Network {
  constructor(graph, buffer) {
    this.graph = graph;
    this.constants = readConstants(graph.constants, buffer);
    this.multiplier = new Multiplier();
    this.plans = new Map();
  }

  /** Return the output for inputs that hold a batch of values, one after the other. The next call overwrites it. */
  run(batch, ...inputs) {
    if (!this.plans.has(batch)) this.plans.set(batch, new Plan(this.graph, this.constants, this.multiplier, batch));
    return this.plans.get(batch).run(inputs);
  }
}
