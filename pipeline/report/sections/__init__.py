"""The page's parts, a file each: from a run to what the template is given."""
