"""Exports of a trained model: one HTML file that generates images, ONNX with its sampler, and model cards."""
