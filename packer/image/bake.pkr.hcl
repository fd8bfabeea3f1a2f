# The one build, for whichever builder `-only` names: upgrade, reboot, bake, seal, generalise. Your own steps stand before the seal;
# nothing may come after the last step.

build {
  sources = [
    "source.amazon-ebs.image",
    "source.azure-arm.image",
    "source.googlecompute.image",
    "source.qemu.image",
  ]

  # The reboot cuts the connection inside this step, so that Packer cannot remove its copies; the last step does.
  provisioner "shell" {
    scripts           = ["${path.root}/../scripts/settle.sh", "${path.root}/../scripts/upgrade.sh"]
    environment_vars  = ["UPGRADE=${var.upgrade}", "REBOOT=${var.reboot}"]
    execute_command   = local.execute
    expect_disconnect = true
    skip_clean        = true
  }

  # Tries to log in again until the machine is back.
  provisioner "shell" {
    scripts             = ["${path.root}/../scripts/settle.sh", "${path.root}/../scripts/containerd.sh"]
    execute_command     = local.execute
    start_retry_timeout = "10m"
  }

  provisioner "ansible" {
    command       = var.ansible_playbook
    playbook_file = "${path.root}/../../playbooks/prebake.yml"
    user          = build.User

    # Packer's proxy is 5 to 10 times slower, and scp through it fails against today's sshd.
    use_proxy        = false
    ansible_env_vars = ["ANSIBLE_CONFIG=${path.root}/../../ansible.cfg", "ANSIBLE_HOST_KEY_CHECKING=False", "ANSIBLE_NOCOLOR=True"]

    # Packer's own --ssh-extra-args come first on the line and ours replace them, so its IdentitiesOnly is said again.
    extra_arguments = [
      "--extra-vars", "@${var.vars_file}",
      "--ssh-extra-args", "-o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes",
    ]
  }

  # Proves the image, and fails the build where it is not what it is said to be. Its report is in the image, and where
  # nvidia_prebake_seal_report_path says.
  provisioner "ansible" {
    command       = var.ansible_playbook
    playbook_file = "${path.root}/../../playbooks/seal.yml"
    user          = build.User
    use_proxy     = false

    # Where gpu-prebake is the command, its report stays the bake's.
    ansible_env_vars = ["ANSIBLE_CONFIG=${path.root}/../../ansible.cfg", "ANSIBLE_HOST_KEY_CHECKING=False", "ANSIBLE_NOCOLOR=True", "GPU_PREBAKE_REPORT="]

    extra_arguments = [
      "--extra-vars", "@${var.vars_file}",
      "--ssh-extra-args", "-o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes",
    ]
  }

  # It removes Packer's copies of the scripts itself: on Azure nobody is left afterwards who could.
  provisioner "shell" {
    script          = "${path.root}/../scripts/generalise.sh"
    execute_command = local.execute
    skip_clean      = true
  }
}
