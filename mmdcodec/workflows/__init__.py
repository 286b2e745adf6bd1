"""Jobs of several stages behind one command.

quickstart   from built-in music to a codec, a music model and a report:
             quickstart_job, quickstart_codec, quickstart_music and
             quickstart_report are its parts
finetune     a music model learns from a folder of audio; finetune_job is what
             was asked for
"""
