"""What the user sees and sends: the accordion, the infotext, the XYZ axes, the API."""
