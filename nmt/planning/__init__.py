"""What a run will take, before it is begun: parameters, memory, disk, and time on 1 to 64 nodes."""
