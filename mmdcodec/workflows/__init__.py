"""Jobs with several stages behind one command.

quickstart   trains a codec and a music model and writes a report; its parts are
             quickstart_job, quickstart_first, quickstart_codec,
             quickstart_preview, quickstart_music and quickstart_report; with
             --system musiclm, quickstart_musiclm and its parts
             quickstart_musiclm_job, quickstart_musiclm_models,
             quickstart_musiclm_pieces and quickstart_musiclm_report
finetune     trains a music model on a folder of audio; finetune_job has the
             settings, and finetune_musiclm the stages for a MusicLM
stage_training
             tokenizes music for the stages of a MusicLM, fits configs to the
             tokens, and trains a stage
assemble     makes one bundle of the parts of a MusicLM, and takes it apart
packaged_models
             trains the codec that ships with the package; packaged_measures
             measures it, packaged_card describes it
packaged_music
             trains the language model that ships with the package;
             packaged_text teaches it words, packaged_music_card describes it
packaged_joint
             trains the joint embedding that ships with the package;
             packaged_joint_card describes it
packaged_musiclm
             trains the MusicLM that ships with the package;
             packaged_musiclm_card describes it
packaged_command, packaged_training
             the command line of these jobs; their trainings within given
             minutes, and the bundles that they leave
cluster      fits the codebooks of a semantic, joint or melody model
"""
