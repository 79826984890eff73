"""Everything on disk: records, the folder, verification limits, atomic files."""
