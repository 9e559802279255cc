"""Everything that runs at scale, on Ray: teachers, recordings, students, the index of runs."""
