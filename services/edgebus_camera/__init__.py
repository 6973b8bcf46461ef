"""Cameras on the bus: an emulated street, videos, folders of pictures, RTSP and USB."""
