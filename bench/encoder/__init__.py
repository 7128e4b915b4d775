"""Items per second that the encoder serves, against the same work done in process."""
