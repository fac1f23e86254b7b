"""Who else measures a sweep's pictures: models on disk, and judges of the miniature's world."""
