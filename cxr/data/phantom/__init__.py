"""Synthetic chest radiographs: what does a picture with a known lesion look like?"""
