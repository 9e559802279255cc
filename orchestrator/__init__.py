"""Everything that runs at scale, on Ray: teachers, recordings, students, sweeps and the index of runs."""
