# An image in Google Compute Engine. Credentials are Application Default Credentials: GOOGLE_APPLICATION_CREDENTIALS names a service
# account's file, or `gcloud auth application-default login`, or this machine's own service account. These need no variable.

variable "google_project_id" {
  type        = string
  description = "googlecompute: the project to build in."
  default     = ""
}

variable "google_zone" {
  type        = string
  description = "googlecompute: the zone to build in."
  default     = "europe-west4-a"
}

variable "google_machine_type" {
  type        = string
  description = "googlecompute: the build machine. No GPU; more processors compile faster."
  default     = "n2-standard-4"
}

variable "google_source_project" {
  type        = string
  description = "googlecompute: the project of the image to begin with."
  default     = "debian-cloud"
}

variable "google_source_family" {
  type        = string
  description = "googlecompute: its family; the newest is taken."
  default     = "debian-12"
}

variable "google_subnetwork" {
  type        = string
  description = "googlecompute: the subnetwork to build in; empty: the default network's."
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

  # Creating an image of a disk this size takes longer than the five minutes that are the default.
  state_timeout = "30m"

  communicator         = "ssh"
  ssh_username         = var.user
  ssh_private_key_file = var.private_key
  ssh_timeout          = var.ssh_timeout
}
