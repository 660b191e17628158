// The operations of a network, as `lowerings.py` names them.
//
// Each function of OPERATIONS receives the operation, its operands, the sizes of its result and the plan. It returns the
// result, and adds to the plan what must be computed at every evaluation. A tensor is { data, shape, strides, offset }.
"use strict";

const OUTSIDE = -1;

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

/** Copy the elements at the places, or 0 for places OUTSIDE, to the front of `result`. */
function gather(source, places, result) {
  for (let i = 0; i < places.length; i++) result[i] = places[i] === OUTSIDE ? 0 : source[places[i]];
}

/** Return the tensor with strides of 0 along the sizes that it lacks. */
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

const FUNCTIONS = {
  exp: Math.exp,
  sin: Math.sin,
  cos: Math.cos,
  tanh: Math.tanh,
  erf,
  neg: (x) => -x,
  relu: (x) => Math.max(x, 0),
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu: (x) => (x * (1 + erf(x * Math.SQRT1_2))) / 2,
};

/** Return an operation that computes a function of every element. */
function elementwise(name) {
  const apply = new Map([[name, FUNCTIONS[name]]]).get(name);
  return (operation, [tensor], shape, plan) => {
    const source = plan.dense(tensor).data, result = plan.tensor(shape);
    plan.add(() => {
      for (let i = 0; i < source.length; i++) result.data[i] = apply(source[i]);
    });
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

function softmax(scores) {
  let largest = -Infinity, sum = 0;
  for (let i = 0; i < scores.length; i++) largest = Math.max(largest, scores[i]);
  for (let i = 0; i < scores.length; i++) sum += scores[i] = Math.exp(scores[i] - largest);
  for (let i = 0; i < scores.length; i++) scores[i] /= sum;
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

/** Return place(pixel, k): where in an image the value is that weight k of a convolution multiplies for a pixel. */
function patches([channels, height, width], [rows, columns], [kernelHeight, kernelWidth], stride, padding) {
  return (pixel, k) => {
    const channel = Math.floor(k / (kernelHeight * kernelWidth));
    const y = Math.floor(pixel / columns) * stride[0] - padding[0] + (Math.floor(k / kernelWidth) % kernelHeight);
    const x = (pixel % columns) * stride[1] - padding[1] + (k % kernelWidth);
    const inside = y >= 0 && y < height && x >= 0 && x < width;
    return inside ? (channel * height + y) * width + x : OUTSIDE;
  };
}

/** Convolve the channels of each group by themselves, without products of matrices. */
function convolveGroups(source, weight, bias, result, shapes, { stride, padding, groups }) {
  const [[batch, channels, height, width], [, outputs, rows, columns], [, depth, kernelHeight, kernelWidth]] = shapes;
  const taps = kernelHeight * kernelWidth;
  for (let image = 0; image < batch; image++) {
    for (let output = 0; output < outputs; output++) {
      const first = Math.floor((output * groups) / outputs) * depth;
      for (let y = 0; y < rows; y++) {
        for (let x = 0; x < columns; x++) {
          let sum = bias ? bias[output] : 0;
          for (let k = 0; k < depth * taps; k++) {
            const channel = first + Math.floor(k / taps);
            const atY = y * stride[0] - padding[0] + (Math.floor(k / kernelWidth) % kernelHeight);
            const atX = x * stride[1] - padding[1] + (k % kernelWidth);
            if (atY >= 0 && atY < height && atX >= 0 && atX < width) {
              sum += weight[output * depth * taps + k] * source[((image * channels + channel) * height + atY) * width + atX];
            }
          }
          result[((image * outputs + output) * rows + y) * columns + x] = sum;
        }
      }
    }
  }
}

/** Attend with every query (heads × length × width) to the keys and values (heads × tokens × width). */
function attend(queries, keys, values, result, tokens, width, valueWidth, length, scale) {
  const scores = new Float64Array(tokens);
  for (let query = 0; query < queries.length / width; query++) {
    const first = Math.floor(query / length) * tokens;
    for (let token = 0; token < tokens; token++) {
      let sum = 0;
      for (let i = 0; i < width; i++) sum += queries[query * width + i] * keys[(first + token) * width + i];
      scores[token] = sum * scale;
    }
    softmax(scores);
    for (let i = 0; i < valueWidth; i++) {
      let sum = 0;
      for (let token = 0; token < tokens; token++) sum += scores[token] * values[(first + token) * valueWidth + i];
      result[query * valueWidth + i] = sum;
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
    const result = plan.tensor(shape);
    const offset = before.reduce((sum, width, dim) => sum + width * result.strides[dim], 0);
    plan.copy(tensor, view(result, tensor.shape, result.strides, offset));
    return result;
  },

  ...Object.fromEntries(Object.keys(FUNCTIONS).map((name) => [name, elementwise(name)])),
  ...Object.fromEntries(Object.entries(ARITHMETIC).map(([name, compute]) => [name, arithmetic(compute)])),

  normalise({ rows, centred, eps }, [tensor], shape, plan) {
    const source = plan.dense(tensor).data, result = plan.tensor(shape);
    plan.add(() => normalise(source, result.data, rows, centred, eps));
    return result;
  },

  linear(operation, [input, weight, bias], shape, plan) {
    const [outputs, inputs] = weight.shape, rows = count(shape) / outputs, result = plan.tensor(shape);
    const left = plan.pack("left", plan.dense(input), rows, inputs, "", (row, k) => row * inputs + k);
    const right = plan.pack("right", plan.dense(weight), outputs, inputs, "", (column, k) => column * inputs + k);
    plan.multiply(left, right, [rows, inputs, outputs], (product, stride) => {
      for (let row = 0; row < rows; row++) {
        for (let column = 0; column < outputs; column++) {
          result.data[row * outputs + column] = product[row * stride + column] + (bias ? bias.data[column] : 0);
        }
      }
    });
    return result;
  },

  conv(operation, [input, weight, bias], shape, plan) {
    const { stride, padding, groups } = operation, dense = plan.dense(input), result = plan.tensor(shape);
    const [batch, outputs, ...size] = shape, [, channels, ...kernel] = weight.shape;
    const depth = channels * count(kernel), pixels = count(size), values = count(input.shape) / batch;
    if (groups > 1) {
      const shapes = [input.shape, shape, weight.shape];
      plan.add(() => convolveGroups(dense.data, weight.data, bias?.data, result.data, shapes, operation));
      return result;
    }
    const left = plan.pack("left", plan.dense(weight), outputs, depth, "", (row, k) => row * depth + k);
    const geometry = [input.shape.slice(1), size, kernel, stride, padding], place = patches(...geometry);
    for (let image = 0; image < batch; image++) {
      const right = plan.pack("right", view(dense, [], [], image * values), pixels, depth, geometry.join(), place);
      plan.multiply(left, right, [outputs, depth, pixels], (product, rowStride) => {
        for (let row = 0; row < outputs; row++) {
          const start = (image * outputs + row) * pixels, shift = bias ? bias.data[row] : 0;
          for (let pixel = 0; pixel < pixels; pixel++) result.data[start + pixel] = product[row * rowStride + pixel] + shift;
        }
      });
    }
    return result;
  },

  attention({ scale }, operands, shape, plan) {
    const [queries, keys, values] = operands.map((operand) => plan.dense(operand)), result = plan.tensor(shape);
    const [tokens, width] = keys.shape.slice(-2), [length, valueWidth] = shape.slice(-2);
    plan.add(() => attend(queries.data, keys.data, values.data, result.data, tokens, width, valueWidth, length, scale));
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
    plan.add(() => {
      indices.data.forEach((index, row) => result.data.set(source.subarray(index * width, (index + 1) * width), row * width));
    });
    return result;
  },
};
