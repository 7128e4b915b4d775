"""`python -m bench.encoder`: pictures and texts per second, served to 32 callers over the same work in process."""

from sightline.settings import set_environment

if __name__ == "__main__":
    # As in the service, and before torch is imported: OpenMP reads it once.
    set_environment("OMP_WAIT_POLICY", "passive")
    from bench.encoder.comparison import main

    main()
