"""What every benchmark needs: servers to measure, load to put on them, results to write down."""
