"""Drop-in replacements of other frameworks' anchor generators: change the import, get the same tensors from one launch.

One module per framework: `torchvision`, `detectron2`, `mmdet`, `effdet`, `ultralytics`. None of them imports its
framework until a call needs one of the framework's own classes. docs/dialects.md says what is equal bit for bit.
"""
