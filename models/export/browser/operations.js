// The operations of a network, as `lowerings.py` names them.
//
// Each function of OPERATIONS receives the operation, its operands, the sizes of its result and the plan. It returns the
// result, and adds to the plan what must be computed at every evaluation. A tensor is { data, shape, strides, offset }.
"use strict";

const count = (shape) => shape.reduce((product, size) => product * size, 1);

function denseStrides(shape) {
  const strides = Array(shape.length).fill(1);
  for (let dim = shape.length - 2; dim >= 0; dim--) strides[dim] = strides[dim + 1] * shape[dim + 1];
  return strides;
}

const isDense = ({ shape, strides, offset }) =>
  offset === 0 && denseStrides(shape).every((stride, dim) => stride === strides[dim] || shape[dim] === 1);

/** Return the place in `data` of every element of a tensor, in order. */
function places({ shape, strides, offset }) {
  let found = Int32Array.of(offset);
  shape.forEach((size, dim) => {
    const next = new Int32Array(found.length * size);
    for (let i = 0; i < found.length; i++) {
      for (let j = 0; j < size; j++) next[i * size + j] = found[i] + j * strides[dim];
    }
    found = next;
  });
  return found;
}

const view = (tensor, shape, strides, offset = 0) => ({ ...tensor, shape, strides, offset: tensor.offset + offset });

/** Copy the elements at the places, in order. */
function gather(source, places, result) {
  for (let i = 0; i < places.length; i++) result[i] = source[places[i]];
}

/** Return the tensor broadcast to a shape, by strides of 0. */
function broadcast(tensor, shape) {
  const missing = shape.length - tensor.shape.length;
  const strides = shape.map((_, dim) => (dim < missing || tensor.shape[dim - missing] === 1 ? 0 : tensor.strides[dim - missing]));
  return view(tensor, shape, strides);
}

/** Return the error function, to 1.5e-7 (Abramowitz and Stegun, 7.1.26). */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const tail = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return Math.sign(x) * (1 - tail * Math.exp(-x * x));
}

// Elementwise functions. Each has its own loop, because a call for each element takes three times as long.
const FUNCTIONS = {
  exp(source, result) {
    for (let i = 0; i < source.length; i++) result[i] = Math.exp(source[i]);
  },
  sin(source, result) {
    for (let i = 0; i < source.length; i++) result[i] = Math.sin(source[i]);
  },
  cos(source, result) {
    for (let i = 0; i < source.length; i++) result[i] = Math.cos(source[i]);
  },
  relu(source, result) {
    for (let i = 0; i < source.length; i++) result[i] = Math.max(source[i], 0);
  },
  sigmoid(source, result) {
    for (let i = 0; i < source.length; i++) result[i] = 1 / (1 + Math.exp(-source[i]));
  },
  silu(source, result) {
    for (let i = 0; i < source.length; i++) result[i] = source[i] / (1 + Math.exp(-source[i]));
  },
  trunc(source, result) {
    for (let i = 0; i < source.length; i++) result[i] = Math.trunc(source[i]);
  },
  round(source, result) { // half to even
    for (let i = 0; i < source.length; i++) {
      const up = Math.round(source[i]);
      result[i] = up - source[i] === 0.5 && up % 2 !== 0 ? up - 1 : up;
    }
  },
  gelu(source, result) {
    for (let i = 0; i < source.length; i++) result[i] = (source[i] * (1 + erf(source[i] * Math.SQRT1_2))) / 2;
  },
};

/** Return an operation that computes an elementwise function. */
function elementwise(compute) {
  return (operation, [tensor], shape, plan) => {
    const source = plan.dense(tensor).data, result = plan.tensor(shape);
    plan.add(() => compute(source, result.data));
    return result;
  };
}

const ARITHMETIC = {
  add(a, aPlaces, b, bPlaces, result) {
    for (let i = 0; i < result.length; i++) result[i] = a[aPlaces ? aPlaces[i] : i] + b[bPlaces ? bPlaces[i] : i];
  },
  sub(a, aPlaces, b, bPlaces, result) {
    for (let i = 0; i < result.length; i++) result[i] = a[aPlaces ? aPlaces[i] : i] - b[bPlaces ? bPlaces[i] : i];
  },
  mul(a, aPlaces, b, bPlaces, result) {
    for (let i = 0; i < result.length; i++) result[i] = a[aPlaces ? aPlaces[i] : i] * b[bPlaces ? bPlaces[i] : i];
  },
  div(a, aPlaces, b, bPlaces, result) {
    for (let i = 0; i < result.length; i++) result[i] = a[aPlaces ? aPlaces[i] : i] / b[bPlaces ? bPlaces[i] : i];
  },
};

/** Return an operation on two tensors that broadcast against each other. */
function arithmetic(compute) {
  return (operation, operands, shape, plan) => {
    const [a, b] = operands.map((operand) => broadcast(operand, shape));
    const result = plan.tensor(shape);
    const aPlaces = isDense(a) ? null : plan.places(a), bPlaces = isDense(b) ? null : plan.places(b);
    plan.add(() => compute(a.data, aPlaces, b.data, bPlaces, result.data));
    return result;
  };
}

/** Compute the softmax of scaled scores (length × tokens, in rows of `stride`) into dense rows. */
function softmax(scores, result, [length, tokens], stride, scale) {
  for (let row = 0; row < length; row++) {
    const from = row * stride, to = row * tokens;
    let largest = -Infinity, sum = 0;
    for (let i = 0; i < tokens; i++) largest = Math.max(largest, scores[from + i]);
    for (let i = 0; i < tokens; i++) sum += result[to + i] = Math.exp((scores[from + i] - largest) * scale);
    for (let i = 0; i < tokens; i++) result[to + i] /= sum;
  }
}

/** Normalise each row to variance 1, and to mean 0 if `centred`. */
function normalise(source, result, rows, centred, eps) {
  const width = source.length / rows;
  for (let start = 0; start < source.length; start += width) {
    let mean = 0, square = 0;
    for (let i = start; i < start + width; i++) mean += source[i];
    mean = centred ? mean / width : 0;
    for (let i = start; i < start + width; i++) square += (source[i] - mean) ** 2;
    const scale = 1 / Math.sqrt(square / width + eps);
    for (let i = start; i < start + width; i++) result[i] = (source[i] - mean) * scale;
  }
}

/** Return 0, step, 2 * step, ...: the offsets of `size` neighbours. */
const spaced = (size, step = 1) => Int32Array.from({ length: size }, (_, index) => index * step);

/** Return all sums of an element of `outer` and one of `inner`, in order. */
const sums = (outer, inner) => Int32Array.from([...outer].flatMap((one) => [...inner].map((other) => one + other)));

/** Convolve each channel separately. pixels: offsets of windows in a source channel; taps: offsets in a window. */
function convolveChannels(source, weight, bias, result, channels, pixels, taps) {
  const planes = result.length / pixels.length, size = source.length / planes;
  for (let plane = 0; plane < planes; plane++) {
    const channel = plane % channels, shift = bias ? bias[channel] : 0;
    for (let pixel = 0; pixel < pixels.length; pixel++) {
      const from = plane * size + pixels[pixel];
      let sum = shift;
      for (let k = 0; k < taps.length; k++) sum += weight[channel * taps.length + k] * source[from + taps[k]];
      result[plane * pixels.length + pixel] = sum;
    }
  }
}

/** Average windows of each plane. Windows that reach over the edge are smaller. */
function poolMeans(source, result, [height, width], [rows, columns], kernel, stride) {
  for (let i = 0; i < result.length; i++) {
    const plane = Math.floor(i / (rows * columns)) * height * width;
    const y = Math.floor((i % (rows * columns)) / columns) * stride[0], x = (i % columns) * stride[1];
    const bottom = Math.min(y + kernel[0], height), right = Math.min(x + kernel[1], width);
    let sum = 0;
    for (let atY = y; atY < bottom; atY++) {
      for (let atX = x; atX < right; atX++) sum += source[plane + atY * width + atX];
    }
    result[i] = sum / ((bottom - y) * (right - x));
  }
}

const OPERATIONS = {
  reshape(operation, [tensor], shape, plan) {
    const dense = plan.dense(tensor);
    return view(dense, shape, denseStrides(shape));
  },

  expand: (operation, [tensor], shape) => broadcast(tensor, shape),

  permute: ({ dims }, [tensor], shape) => view(tensor, shape, dims.map((dim) => tensor.strides[dim])),

  slice({ dim, start, step }, [tensor], shape) {
    const strides = tensor.strides.map((stride, other) => (other === dim ? stride * step : stride));
    const first = start < 0 ? start + tensor.shape[dim] : start;
    return view(tensor, shape, strides, first * tensor.strides[dim]);
  },

  cat({ dim }, tensors, shape, plan) {
    const result = plan.tensor(shape);
    let start = 0;
    for (const tensor of tensors) {
      plan.copy(tensor, view(result, tensor.shape, result.strides, start * result.strides[dim]));
      start += tensor.shape[dim];
    }
    return result;
  },

  pad({ before }, [tensor], shape, plan) {
    if (count(shape) === count(tensor.shape)) return plan.dense(tensor);
    const result = plan.tensor(shape);
    const offset = before.reduce((sum, width, dim) => sum + width * result.strides[dim], 0);
    plan.copy(tensor, view(result, tensor.shape, result.strides, offset));
    return result;
  },

  ...Object.fromEntries(Object.entries(FUNCTIONS).map(([name, compute]) => [name, elementwise(compute)])),
  ...Object.fromEntries(Object.entries(ARITHMETIC).map(([name, compute]) => [name, arithmetic(compute)])),

  clamp({ min, max }, [tensor], shape, plan) {
    const source = plan.dense(tensor).data, result = plan.tensor(shape), low = min ?? -Infinity, high = max ?? Infinity;
    plan.add(() => {
      for (let i = 0; i < source.length; i++) result.data[i] = Math.min(Math.max(source[i], low), high);
    });
    return result;
  },

  normalise({ rows, centred, eps }, [tensor], shape, plan) {
    const source = plan.dense(tensor).data, result = plan.tensor(shape);
    plan.add(() => normalise(source, result.data, rows, centred, eps));
    return result;
  },

  linear(operation, [input, weight, bias], shape, plan) {
    const [outputs, inputs] = weight.shape, rows = count(shape) / outputs, result = plan.tensor(shape);
    const shifts = bias && plan.dense(bias).data;
    const left = plan.pack("left", plan.dense(input), spaced(rows, inputs), spaced(inputs));
    const right = plan.pack("right", plan.dense(weight), spaced(outputs, inputs), spaced(inputs));
    plan.multiply(left, right, [rows, inputs, outputs], (product, stride) => {
      for (let row = 0; row < rows; row++) {
        for (let column = 0; column < outputs; column++) {
          result.data[row * outputs + column] = product[row * stride + column] + (shifts ? shifts[column] : 0);
        }
      }
    });
    return result;
  },

  conv({ stride, padding, groups }, [input, weight, bias], shape, plan) {
    const [batch, channels, ...inner] = input.shape, [, outputs, ...size] = shape, kernel = weight.shape.slice(2);
    const [height, width] = inner.map((length, dim) => length + 2 * padding[dim]);
    const padded = OPERATIONS.pad({ before: [0, 0, ...padding] }, [input], [batch, channels, height, width], plan);
    const pixels = sums(spaced(size[0], stride[0] * width), spaced(size[1], stride[1]));
    const taps = sums(spaced(kernel[0], width), spaced(kernel[1])), result = plan.tensor(shape);
    const weights = plan.dense(weight), shifts = bias && plan.dense(bias).data;
    if (groups > 1) {
      plan.add(() => convolveChannels(padded.data, weights.data, shifts, result.data, channels, pixels, taps));
      return result;
    }
    const depth = sums(spaced(channels, height * width), taps);
    const left = plan.pack("left", weights, spaced(outputs, depth.length), spaced(depth.length));
    for (let image = 0; image < batch; image++) {
      const right = plan.pack("right", view(padded, [], [], image * channels * height * width), pixels, depth);
      plan.multiply(left, right, [outputs, depth.length, pixels.length], (product, rowStride) => {
        for (let row = 0; row < outputs; row++) {
          const from = row * rowStride, to = (image * outputs + row) * pixels.length, shift = shifts ? shifts[row] : 0;
          for (let pixel = 0; pixel < pixels.length; pixel++) result.data[to + pixel] = product[from + pixel] + shift;
        }
      });
    }
    return result;
  },

  attention({ scale }, operands, shape, plan) {
    const [queries, keys, values] = operands.map((operand) => plan.dense(operand)), result = plan.tensor(shape);
    const [tokens, width] = keys.shape.slice(-2), [length, valueWidth] = shape.slice(-2);
    const weights = plan.tensor([length, tokens]);
    for (let head = 0; head < count(shape.slice(0, -2)); head++) {
      const part = (tensor) => view(tensor, [], [], head * count(tensor.shape.slice(-2)));
      plan.pack("left", part(queries), spaced(length, width), spaced(width));
      plan.pack("right", part(keys), spaced(tokens, width), spaced(width));
      plan.multiply(null, null, [length, width, tokens], (scores, stride) => {
        softmax(scores, weights.data, [length, tokens], stride, scale);
      });
      plan.pack("left", weights, spaced(length, tokens), spaced(tokens));
      plan.pack("right", part(values), spaced(valueWidth), spaced(tokens, valueWidth));
      plan.multiply(null, null, [length, tokens, valueWidth], (mixed, stride) => {
        for (let row = 0; row < length; row++) {
          const start = (head * length + row) * valueWidth;
          result.data.set(mixed.subarray(row * stride, row * stride + valueWidth), start);
        }
      });
    }
    return result;
  },

  mean_pool({ kernel, stride }, [tensor], shape, plan) {
    const source = plan.dense(tensor), result = plan.tensor(shape);
    plan.add(() => poolMeans(source.data, result.data, tensor.shape.slice(2), shape.slice(2), kernel, stride));
    return result;
  },

  nearest(operation, [tensor], shape, plan) {
    const source = plan.dense(tensor).data, result = plan.tensor(shape);
    const [height, width] = tensor.shape.slice(2), [rows, columns] = shape.slice(2);
    const place = Int32Array.from(result.data, (_, i) => {
      const y = Math.floor(((Math.floor(i / columns) % rows) * height) / rows);
      return Math.floor(i / (rows * columns)) * height * width + y * width + Math.floor(((i % columns) * width) / columns);
    });
    plan.add(() => gather(source, place, result.data));
    return result;
  },

  rows(operation, [table, indices], shape, plan) {
    const source = plan.dense(table).data, width = table.shape[1], result = plan.tensor(shape);
    const numbers = plan.dense(indices).data;
    plan.add(() => {
      numbers.forEach((index, row) => result.data.set(source.subarray(index * width, (index + 1) * width), row * width));
    });
    return result;
  },
};
