"""A local web page to hear what models do (`mmdcodec demo`, extra `[demo]`).

page             the page: its tabs, and a line about each model
context          what the tabs share
codec_tab        audio, coded and decoded again
music_tab        music from prompts, melodies and audio, heard while it is made
comparison_tab   two models side by side
server           the address, the folder of temporary files, when all ends
models           opens models; what each of them can do
reconstruction   audio through a codec
making           music from a request, which can be stopped
piece            a piece while it is made, as a stream for the browser
uploads          what users give: bounded in size and length
sessions         files that belong to an open page, and go with it
pictures         spectrograms and codes as pictures
elements         parts of the page as HTML; mistakes in one sentence
"""
