# For Packer 1.7 and later, which fetch plugins by `packer init`. A file of its own, since Packer 1.6 refuses this block: give 1.6 the
# template alone.
packer {
  required_plugins {
    ansible = {
      source  = "github.com/hashicorp/ansible"
      version = ">= 1.1.0, < 2.0.0"
    }
  }
}
