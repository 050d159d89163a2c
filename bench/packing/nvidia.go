package main

import "aliquot.example/internal/gpu"

// vendor is that of the published cluster's GPUs.
const vendor = gpu.NVIDIA
