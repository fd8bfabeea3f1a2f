# Builds an image in Google Compute Engine. It uses Application Default Credentials, which need no variable here: the service account file
# that GOOGLE_APPLICATION_CREDENTIALS names, `gcloud auth application-default login`, or the service account of Packer's machine.

variable "google_project_id" {
  type        = string
  description = "googlecompute: project to build in."
  default     = ""
}

variable "google_zone" {
  type        = string
  description = "googlecompute: zone to build in."
  default     = "europe-west4-a"
}

variable "google_machine_type" {
  type        = string
  description = "googlecompute: type of the build machine. It needs no GPU; more processors compile faster."
  default     = "n2-standard-4"
}

variable "google_source_project" {
  type        = string
  description = "googlecompute: project of the source image."
  default     = "debian-cloud"
}

variable "google_source_family" {
  type        = string
  description = "googlecompute: family of the source image; its newest image is used."
  default     = "debian-12"
}

variable "google_subnetwork" {
  type        = string
  description = "googlecompute: subnetwork to build in. If empty, that of the default network."
  default     = ""
}

source "googlecompute" "image" {
  project_id = var.google_project_id
  zone       = var.google_zone
  subnetwork = var.google_subnetwork

  machine_type            = var.google_machine_type
  source_image_project_id = [var.google_source_project]
  source_image_family     = var.google_source_family
  disk_size               = var.disk_gb
  disk_type               = "pd-ssd"

  image_name   = local.full_name
  image_family = var.image_name

  # Creating an image of a disk of this size takes longer than the default of five minutes.
  state_timeout = "30m"

  communicator         = "ssh"
  ssh_username         = var.user
  ssh_private_key_file = var.private_key
  ssh_timeout          = var.ssh_timeout
}
