"""The controller's driver: bakes into images and brings up nodes with Ansible, shows each step, and leaves a report."""

__version__ = "0.2.0-dev"
