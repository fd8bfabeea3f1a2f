"""The program on the controller: it runs the collection's playbooks with Ansible, shows each step, and writes a report."""

__version__ = "0.2.0-dev"
