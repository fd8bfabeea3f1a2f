"""Bake an NVIDIA driver into an image and decide at boot whether it may be used.

Standard library only, Python 3.9 and later, relative imports, so that the same files run inside Ansible's modules and on a node.
"""
