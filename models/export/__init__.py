"""Exports of a trained model: one HTML file that generates images, ONNX files with a sampler, and model cards."""
