"""Where the bytes of the data sets come from: files, archives, image folders, downloads."""
