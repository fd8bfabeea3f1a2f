# Builds an AMI. Credentials come from where AWS's own tools find them (environment, profile, instance role), or from the variables.

variable "aws_access_key" {
  type        = string
  description = "amazon-ebs: access key. If empty, credentials come from the environment, a profile or the instance role."
  default     = ""
}

variable "aws_secret_key" {
  type        = string
  description = "amazon-ebs: secret of the access key; set it in the environment, as PKR_VAR_aws_secret_key."
  default     = ""
  sensitive   = true
}

variable "aws_token" {
  type        = string
  description = "amazon-ebs: session token of temporary credentials, which must stay valid until the build has ended."
  default     = ""
  sensitive   = true
}

variable "aws_region" {
  type        = string
  description = "amazon-ebs: region to build in."
  default     = "eu-central-1"

  validation {
    condition     = length(var.aws_region) > 0 && var.aws_region == regex_replace(var.aws_region, "[^a-z0-9-]", "")
    error_message = "The aws_region must be a region's name, such as eu-central-1."
  }
}

variable "aws_instance_type" {
  type        = string
  description = "amazon-ebs: type of the build machine, x86_64. It needs no GPU; more processors compile faster."
  default     = "c6i.xlarge"
}

variable "aws_subnet_id" {
  type        = string
  description = "amazon-ebs: subnet to build in. If empty, the subnet of the default VPC."
  default     = ""
}

variable "aws_source_owner" {
  type        = string
  description = "amazon-ebs: account that owns the source image; the default is Debian's."
  default     = "136693071363"

  validation {
    condition     = length(var.aws_source_owner) > 0
    error_message = "The aws_source_owner must be an account, because a name alone may be anybody's image."
  }
}

variable "aws_source_name" {
  type        = string
  description = "amazon-ebs: name of the source image; of several that match, the newest is used."
  default     = "debian-12-amd64-*"
}

variable "aws_root_device" {
  type        = string
  description = "amazon-ebs: name of the root device in the source image: /dev/xvda for Debian, /dev/sda1 for Ubuntu."
  default     = "/dev/xvda"
}

variable "aws_user" {
  type        = string
  description = "amazon-ebs: login that the source image has; this builder does not use the variable user."
  default     = "admin"
}

source "amazon-ebs" "image" {
  access_key = var.aws_access_key
  secret_key = var.aws_secret_key
  token      = var.aws_token
  region     = var.aws_region

  instance_type = var.aws_instance_type
  subnet_id     = var.aws_subnet_id
  ebs_optimized = true

  source_ami_filter {
    owners      = [var.aws_source_owner]
    most_recent = true
    filters = {
      name                = var.aws_source_name
      virtualization-type = "hvm"
      root-device-type    = "ebs"
      architecture        = "x86_64"
    }
  }

  ami_name = local.full_name

  launch_block_device_mappings {
    device_name           = var.aws_root_device
    volume_type           = "gp3"
    iops                  = 3000
    throughput            = 125 # Packer 1.6.6 needs iops and throughput, although both have defaults
    volume_size           = var.disk_gb
    delete_on_termination = true
  }

  # An image with a driver has tens of GB; this allows two hours for its snapshot.
  aws_polling {
    delay_seconds = 30
    max_attempts  = 240
  }

  communicator              = "ssh"
  ssh_username              = var.aws_user
  ssh_private_key_file      = var.private_key
  ssh_timeout               = var.ssh_timeout
  ssh_clear_authorized_keys = true
}
