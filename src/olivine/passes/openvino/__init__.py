"""Passes that make and change models of OpenVINO, by openvino and nncf."""
