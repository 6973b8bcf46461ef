"""Training: the ONNX graph in torch."""
