"""Objects as COCO files describe them: checked values, polygons, run lengths, and masks of single objects."""
