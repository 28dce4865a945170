"""What XLA's GPU compiler must know of a GPU that is not here, as the text it reads.

Facts of NVIDIA's data sheets and CUDA's occupancy tables; memory sizes are what the driver reports.
"""

# cores, L2 bytes, clock GHz, memory bytes, memory bytes a second, compute capability, shared memory a core, name
_GPUS = {
    "a100": (108, 41943040, 1.41, 84974239744, 2039000000000, 8, 167936, "NVIDIA A100-SXM4-80GB"),
    "h100": (132, 52428800, 1.98, 84978434048, 3352320000000, 9, 233472, "NVIDIA H100 80GB HBM3"),
    "h200": (132, 52428800, 1.98, 150109880320, 4800000000000, 9, 233472, "NVIDIA H200"),
}


def gpu_target(kind: str) -> str:
    """The target description of one GPU kind: a100, h100 or h200.

    Raises:
      KeyError: another kind.
    """
    cores, l2, clock, memory, bandwidth, major, shared, name = _GPUS[kind]
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared}
  threads_per_core_limit: 2048
  core_count: {cores}
  fpus_per_core: {128 if major == 9 else 64}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: {l2}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  shared_memory_per_block_optin: {shared - 1024}
  cuda_compute_capability {{ major: {major} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
device_description_str: "{name}"
"""
